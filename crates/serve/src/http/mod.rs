//! The HTTP server: connections, middleware, keys, logs and metrics, and the resources that clients share

pub(crate) mod access_log;
pub(crate) mod admission;
pub mod api_keys;
pub(crate) mod body_budget;
pub mod client;
pub(crate) mod connections;
pub mod deleted;
pub mod framing;
pub mod hosts;
pub mod metering;
pub mod metrics;
pub(crate) mod middleware;
pub(crate) mod page;
pub(crate) mod request_body;
pub(crate) mod response_body;
pub(crate) mod routes;
pub(crate) mod server;
pub(crate) mod tls;
pub(crate) mod tries;
pub(crate) mod work_slots;
