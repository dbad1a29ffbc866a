//! A time for every call: from its request to the first word of its answer.
//!
//! `tonic` has a setting for this, and ends such calls with CANCELLED, which says that nobody wanted the answer any more.

use core::convert::Infallible;
use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use crate::counters::Counters;

/// A service whose calls end with DEADLINE_EXCEEDED where it does not answer in time. Streams may go on for longer.
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
    limit: Duration,
    counters: Arc<Counters>,
}

impl<S> Deadline<S> {
    /// Bounds a service.
    pub const fn new(inner: S, limit: Duration, counters: Arc<Counters>) -> Self {
        Self { inner, limit, counters }
    }
}

/// What a call that took too long ends with.
pub fn late(limit: Duration) -> Status {
    let limit = humantime::format_duration(limit);
    Status::deadline_exceeded(format!(
        "the node had no answer within its limits.request_timeout ({limit}): look at `stele cluster status`, then try again"
    ))
}

impl<S: NamedService> NamedService for Deadline<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Deadline<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, limit, counters) = (self.inner.call(request), self.limit, Arc::clone(&self.counters));
        Box::pin(async move {
            timeout(limit, answer).await.unwrap_or_else(|_elapsed| {
                counters.failed();
                Ok(late(limit).into_http())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    /// Answers after so long.
    #[derive(Clone)]
    struct After(Duration);

    impl Service<http::Request<Body>> for After {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            let wait = tokio::time::sleep(self.0);
            Box::pin(async move {
                wait.await;
                Ok(Status::not_found("answered").into_http())
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_in_time_ends_as_deadline_exceeded_and_any_other_as_it_does() {
        let counters = Arc::new(Counters::default());
        let limit = Duration::from_secs(10);
        for (takes, code) in [(9, Code::NotFound), (11, Code::DeadlineExceeded)] {
            let mut service = Deadline::new(After(Duration::from_secs(takes)), limit, Arc::clone(&counters));
            let answer = service.call(http::Request::new(Body::empty())).await.unwrap();
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!(status.code(), code);
            assert_eq!(status.message().contains("limits.request_timeout (10s)"), code == Code::DeadlineExceeded);
        }
        let told = format!("{counters:?}");
        assert!(told.contains("calls: 1,"), "{told}");
    }
}
