//! The token that a client sends with each call.

use core::fmt;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::error::ConfigError;

/// Bytes of a token, at most.
pub const MAX_TOKEN_BYTES: usize = 1024;

/// A connection whose calls carry the client's token.
pub type Wire = InterceptedService<Channel, Credentials>;

/// A bearer token. It is shown nowhere, and sent to `https` addresses and to this machine only.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

impl Token {
    /// Takes a token: 1 to 1,024 visible ASCII characters.
    ///
    /// # Errors
    /// [`ConfigError::Bound`].
    pub fn new(text: &str) -> Result<Self, ConfigError> {
        let rule = "a token is 1 to 1024 visible ASCII characters";
        let visible = (1..=MAX_TOKEN_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let value = MetadataValue::try_from(format!("Bearer {text}")).ok().filter(|_| visible);
        let mut value = value.ok_or(ConfigError::Bound { rule })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What a client shows of itself with each call.
#[derive(Clone, Default, Debug)]
pub struct Credentials(Option<Token>);

impl Credentials {
    /// Shows this token, or nothing.
    pub const fn new(token: Option<Token>) -> Self {
        Self(token)
    }

    /// A connection whose calls show it.
    pub fn wire(&self, channel: Channel) -> Wire {
        InterceptedService::new(channel, self.clone())
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(Token(value)) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_into_the_header_and_nowhere_else() {
        let mut credentials = Credentials::new(Some(Token::new("s3cret").unwrap()));
        let request = credentials.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer s3cret");
        assert!(!format!("{credentials:?} {request:?}").contains("s3cret"));
        assert!(Credentials::default().call(Request::new(())).unwrap().metadata().is_empty());
        for bad in ["", "a b", "a\n", "\u{e9}", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
            assert!(Token::new(bad).is_err(), "{bad:?}");
        }
    }
}
