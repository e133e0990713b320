//! Telling the service manager how far the server is: a datagram to `NOTIFY_SOCKET`, as systemd's sd_notify sends it.

#[cfg(unix)]
use std::os::unix::ffi::OsStrExt;
#[cfg(unix)]
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Whether a service manager started this process and listens.
pub fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|name| !name.is_empty())
}

/// Tell a state, such as `READY=1`. Nobody may be listening: that is no failure.
#[cfg(not(unix))]
pub fn notify(_state: &str) {}

/// Tell a state, such as `READY=1`. Nobody may be listening: that is no failure.
#[cfg(unix)]
pub fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(hidden) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(hidden),
        // Only Linux has sockets without a path.
        #[cfg(not(target_os = "linux"))]
        Some(_) => Err(std::io::Error::from(std::io::ErrorKind::Unsupported)),
        None => SocketAddr::from_pathname(&name),
    };
    if let Err(e) = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to)) {
        tracing::warn!(target: "farthing", "NOTIFY_SOCKET: {e}");
    }
}
