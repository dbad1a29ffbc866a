//! The services of `stele.v1`.

mod append;
mod cluster;
mod convert;
mod log;
mod older;

pub use cluster::ClusterService;
pub(crate) use cluster::hand_over;
pub use log::LogService;
