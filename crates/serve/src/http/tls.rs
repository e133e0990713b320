//! TLS certificates, reloadable while the server runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

const PEM_BYTES_MAX: u64 = 1 << 20;

/// Files that are no certificate and key.
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, Error)]
pub enum TlsError {
    /// Not read.
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// More than a certificate chain can be.
    #[error("{}: more than {PEM_BYTES_MAX} bytes; give a PEM file", path.display())]
    Large { path: PathBuf },
    /// Not PEM, or nothing of that kind in it.
    #[error("{}: no {what} in it ({source}); give a PEM file", path.display())]
    Pem { path: PathBuf, what: &'static str, source: pem::Error },
    /// They do not belong together, or are of an unknown kind.
    #[error("{} and {}: {source}", cert.display(), key.display())]
    Unfit { cert: PathBuf, key: PathBuf, source: rustls::Error },
}

/// A certificate and its key in use, and where they came from.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Read PEM files: a chain (the server's own certificate first) and its private key.
    ///
    /// # Errors
    /// Files that cannot be read, are no PEM or do not belong together.
    pub fn read(cert: &Path, key: &Path) -> Result<Tls, TlsError> {
        let config = RwLock::new(config(cert, key)?);
        Ok(Tls { cert: cert.to_path_buf(), key: key.to_path_buf(), config })
    }

    /// Read the files again: new connections get what is in them now. On an error the old ones stay.
    ///
    /// # Errors
    /// As `read`.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = config(&self.cert, &self.key)?;
        *self.config.write() = fresh;
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read()))
    }
}

fn bounded(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let failed = |source| TlsError::Read { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(TlsError::Large { path: path.to_path_buf() });
    }
    Ok(bytes)
}

fn config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let what = "certificate";
    let unread = |source| TlsError::Pem { path: cert.to_path_buf(), what, source };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&bounded(cert)?).collect::<Result<_, _>>().map_err(unread)?;
    if chain.is_empty() {
        return Err(unread(pem::Error::NoItemsFound));
    }
    let private = PrivateKeyDer::from_pem_slice(&bounded(key)?).map_err(|source| TlsError::Pem {
        path: key.to_path_buf(),
        what: "private key",
        source,
    })?;
    let unfit = |source| TlsError::Unfit { cert: cert.to_path_buf(), key: key.to_path_buf(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(unfit)?;
    // HTTP/1.1 only: the limits on heads and slow readers assume one request at a time on a connection.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
