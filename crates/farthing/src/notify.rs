//! Telling the service manager how far the server is: a datagram to `NOTIFY_SOCKET`, as systemd's sd_notify sends it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Whether a service manager started this process and listens.
pub fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|name| !name.is_empty())
}

/// Tell a state, such as `READY=1`. Nobody may be listening: that is no failure.
pub fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(hidden) => SocketAddr::from_abstract_name(hidden),
        None => SocketAddr::from_pathname(&name),
    };
    if let Err(e) = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to)) {
        tracing::warn!(target: "farthing", "NOTIFY_SOCKET: {e}");
    }
}
