//! Who may do what.
//!
//! A caller is known by the token that it sends (`authorization: Bearer <token>`; the node knows its BLAKE3 only), or
//! else by a DNS name among the alternative names of the certificate that it shows. An `[[access]]` table gives it
//! roles, and binds a writer to `writer_id`s and streams. Without any such table everything is allowed to whoever can
//! connect.
//!
//! | call | roles, any of |
//! |---|---|
//! | `Append` | writer; each record by its `writer_id` and `stream` |
//! | `Head`, `Read` of one record | reader, auditor; writer, of chains that it may write |
//! | `Read`, `Tail`, `Prove`, `Consistency`, `Checkpoint` | reader, auditor |
//! | `Cluster.Status` | operator, auditor |
//! | the other calls of `Cluster` | operator |
//! | `Describe` | any |
//!
//! Health and reflection are open. `custodian` is for what keeps payloads and holds; no call asks for it yet. A caller
//! is looked up once a call, so once for a stream of appends.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use stele_raft::rights::{Binding, MayWrite};
use tonic::{Code, Request, Status};
use webpki::EndEntityCert;

use crate::welcome::Guest;

/// What a caller is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Appends, as what it is bound to.
    Writer,
    /// Reads and asks for proofs.
    Reader,
    /// As a reader, and sees the state of the nodes.
    Auditor,
    /// Operates the cluster.
    Operator,
    /// Keeps what was taken out of the log.
    Custodian,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Writer, Self::Reader, Self::Auditor, Self::Operator, Self::Custodian];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
            Self::Custodian => "custodian",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The BLAKE3 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token.
    pub fn of(token: &[u8]) -> Self {
        Self(*blake3::hash(token).as_bytes())
    }

    /// Reads `b3:` and 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hash = blake3::Hash::from_hex(text.strip_prefix("b3:")?).ok()?;
        Some(Self(*hash.as_bytes()))
    }
}

/// What a table of the configuration says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rights {
    /// What the caller is called in messages.
    pub name: String,
    /// What it is, at least one.
    pub roles: Vec<Role>,
    /// What a writer is bound to.
    pub binding: Arc<Binding>,
}

/// Who is known.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Known {
    /// By a DNS name of its certificate.
    pub certificates: HashMap<String, Arc<Rights>>,
    /// By its token.
    pub tokens: HashMap<TokenHash, Arc<Rights>>,
}

/// Who may do what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    /// Everybody everything.
    Open,
    /// Those who are known, by their roles.
    ByRole(Arc<Known>),
}

/// Who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Caller {
    /// Nobody asks.
    Anybody,
    /// Somebody who is known.
    Known(Arc<Rights>),
}

/// Why somebody may not call.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The header is none that carries a token.
    #[error("the header `authorization` must be `Bearer` and a token")]
    NoBearer,
    /// Nobody has this token.
    #[error("the token is not known here")]
    UnknownToken,
    /// It shows neither a token nor a certificate that somebody has.
    #[error("the caller is not known here: it shows neither a token nor a certificate with a name that has rights")]
    Unknown,
    /// It has other roles.
    #[error("{name} may not do this: it takes one of the roles {}", roles(.needed))]
    Role {
        /// Who.
        name: String,
        /// What would do.
        needed: &'static [Role],
    },
}

fn roles(roles: &[Role]) -> String {
    roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ")
}

impl Denied {
    /// The status of a call that ends with it.
    pub const fn code(&self) -> Code {
        match self {
            Self::NoBearer | Self::UnknownToken | Self::Unknown => Code::Unauthenticated,
            Self::Role { .. } => Code::PermissionDenied,
        }
    }
}

impl Access {
    /// Who calls.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn identify<T>(&self, request: &Request<T>) -> Result<Caller, Denied> {
        let Self::ByRole(known) = self else { return Ok(Caller::Anybody) };
        if let Some(header) = request.metadata().get("authorization") {
            let token =
                header.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
            let (_, token) = token.ok_or(Denied::NoBearer)?;
            let rights = known.tokens.get(&TokenHash::of(token)).ok_or(Denied::UnknownToken)?;
            return Ok(Caller::Known(Arc::clone(rights)));
        }
        // The chain was verified when the connection was made; its first certificate is the caller's own.
        let certificate = request.extensions().get::<Guest>().and_then(Guest::certificate);
        let parsed = certificate.and_then(|certificate| EndEntityCert::try_from(certificate).ok());
        let rights = parsed.iter().flat_map(|parsed| parsed.valid_dns_names()).find_map(|name| known.named(name));
        rights.map(Caller::Known).ok_or(Denied::Unknown)
    }
}

impl Known {
    fn named(&self, name: &str) -> Option<Arc<Rights>> {
        self.certificates.get(&name.to_ascii_lowercase()).cloned()
    }
}

impl Caller {
    /// Whether the caller has any of these roles.
    ///
    /// # Errors
    /// [`Denied::Role`].
    pub fn has(&self, needed: &'static [Role]) -> Result<(), Denied> {
        match self {
            Self::Known(rights) if !needed.iter().any(|role| rights.roles.contains(role)) => {
                Err(Denied::Role { name: rights.name.clone(), needed })
            }
            _ => Ok(()),
        }
    }

    /// What the caller may append.
    pub fn may_write(&self) -> MayWrite {
        match self {
            Self::Anybody => MayWrite::Everything,
            Self::Known(rights) => MayWrite::Bound(Arc::clone(&rights.binding)),
        }
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        Self::new(denied.code(), denied.to_string())
    }
}

#[cfg(test)]
mod tests {
    use stele_raft::rights::{Names, Pattern};

    use super::*;

    fn access() -> Access {
        let rights = |name: &str, roles: &[Role], binding| {
            Arc::new(Rights { name: name.to_owned(), roles: roles.to_vec(), binding: Arc::new(binding) })
        };
        let exact = |name| vec![Pattern::new(name).unwrap()];
        let writer = rights("w", &[Role::Writer], Binding { writers: exact("w"), streams: exact("s") });
        let tokens = [
            (TokenHash::of(b"of w"), writer),
            (TokenHash::of(b"of r"), rights("r", &[Role::Reader], Binding::default())),
        ];
        Access::ByRole(Arc::new(Known { certificates: HashMap::new(), tokens: tokens.into_iter().collect() }))
    }

    fn request(header: Option<&'static str>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        request
    }

    #[test]
    fn whoever_shows_nothing_or_something_wrong_is_nobody() {
        let denied = |header| access().identify(&request(header)).unwrap_err();
        assert_eq!(denied(None), Denied::Unknown);
        assert_eq!(denied(Some("Basic of w")), Denied::NoBearer);
        assert_eq!(denied(Some("Bearer")), Denied::NoBearer);
        assert_eq!(denied(Some("Bearer of x")), Denied::UnknownToken);
        assert_eq!(denied(Some("Bearer ")), Denied::UnknownToken);
        for header in [None, Some("Basic of w")] {
            assert_eq!(denied(header).code(), Code::Unauthenticated);
        }
        assert_eq!(Access::Open.identify(&request(Some("Bearer of x"))), Ok(Caller::Anybody));
    }

    #[test]
    fn a_role_allows_its_calls_and_a_binding_its_records() {
        let of = |header| access().identify(&request(Some(header))).unwrap();
        let (writer, reader) = (of("Bearer of w"), of("bearer of r"));
        assert_eq!(writer.has(&[Role::Writer]), Ok(()));
        assert_eq!(writer.has(&[Role::Reader, Role::Writer]), Ok(()));
        let denied = writer.has(&[Role::Reader, Role::Auditor]).unwrap_err();
        assert_eq!(denied.to_string(), "w may not do this: it takes one of the roles reader, auditor");
        assert_eq!(denied.code(), Code::PermissionDenied);
        let own = Names { writer_id: "w", stream: "s" };
        assert!(writer.may_write().allows_names(&own) && !reader.may_write().allows_names(&own));
        assert!(!writer.may_write().allows_names(&Names { writer_id: "v", ..own }));
        assert!(Caller::Anybody.may_write().allows_names(&own) && Caller::Anybody.has(&[Role::Operator]).is_ok());
    }
}
