//! TLS of the HTTPS port: a certificate that is read again when its files change.
//!
//! Whoever renews certificates (certbot, acme.sh, a secret that is mounted) writes the files and need not tell anyone.
//! Connections that are open keep what they began with; files that cannot be used leave the old certificate in place.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// What this port speaks, best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why a certificate cannot be used: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {why}", path = path.display())]
    File { path: PathBuf, why: rustls::pki_types::pem::Error },
    #[error("{path} holds no certificate in PEM", path = path.display())]
    Empty { path: PathBuf },
    #[error("certificate and key cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
}

/// The certificate that is in use.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
}

/// What tells that a file was written again.
type Stamp = Option<(SystemTime, u64)>;

impl Tls {
    /// Reads a chain of certificates and its key, both in PEM.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>, Error> {
        let config = ArcSwap::new(read(certificate, key)?);
        Ok(Arc::new(Self { certificate: certificate.to_owned(), key: key.to_owned(), config }))
    }

    /// For one new connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.config.load_full().into()
    }

    /// Looks at the files until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.stamps();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let now = self.stamps();
            if now == seen {
                continue;
            }
            match read(&self.certificate, &self.key) {
                Ok(config) => {
                    self.config.store(config);
                    info!(certificate = %self.certificate.display(), "the certificate was renewed");
                }
                // One of the two files may be written still: then it changes once more.
                Err(why) => warn!(%why, "the new certificate cannot be used; the old one stays"),
            }
            seen = now;
        }
    }

    fn stamps(&self) -> [Stamp; 2] {
        [&self.certificate, &self.key].map(|file| {
            let found = fs::metadata(file).ok()?;
            Some((found.modified().ok()?, found.len()))
        })
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |why| Error::File { path, why }
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(failed(certificate))?;
    if chain.is_empty() {
        return Err(Error::Empty { path: certificate.to_owned() });
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = PROTOCOLS.map(Vec::from).to_vec();
    Ok(Arc::new(config))
}
