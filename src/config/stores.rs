//! Where a node keeps what must outlive it: metadata, chunk bytes, and what waits for them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use url::Url;

use super::text;
use crate::{
    auth::Secret,
    store::{objects, scylla},
};

/// Where metadata is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    pub kind: Kind,
    /// Contact points of the database, `host:port`.
    pub nodes: Vec<String>,
    pub keyspace: String,
    pub user: String,
    #[serde(with = "text::secret")]
    pub password: Option<Secret>,
    /// The datacenter whose nodes are asked; needed where there are several.
    pub datacenter: String,
    /// Copies of each row in keyspaces that are made; 0: one per node, three at most.
    pub replicas: u32,
    /// Among whom conditional writes are decided.
    pub serial: Serial,
    /// A file with the certificate authority of the database's nodes in PEM: they are spoken to by TLS then.
    #[serde(with = "text::path")]
    pub tls_ca: Option<PathBuf>,
    /// Whether keyspaces and tables that are missing are made at start.
    pub create: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            kind: Kind::Embedded,
            nodes: Vec::new(),
            keyspace: "weir".into(),
            user: String::new(),
            password: None,
            datacenter: String::new(),
            replicas: 0,
            serial: Serial::Global,
            tls_ca: None,
            create: true,
        }
    }
}

/// A kind of metadata store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Files in `data.dir`, for one node.
    Embedded,
    /// ScyllaDB or Apache Cassandra, for any number of nodes.
    Scylla,
}

/// Among whom conditional writes are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Serial {
    /// All datacenters.
    Global,
    /// The local datacenter: for databases of which a stream is only ever written in one.
    Local,
}

/// Where chunk bytes are kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blobs {
    /// A bucket, such as `s3://bucket/folder`; none: files in `data.dir`.
    #[serde(with = "text::url")]
    pub url: Option<Url>,
    #[serde(with = "text::url")]
    pub endpoint: Option<Url>,
    pub region: String,
    pub key: String,
    #[serde(with = "text::secret")]
    pub secret: Option<Secret>,
    pub virtual_host: bool,
    /// Tries a put that takes longer than 150 ms a second time beside the first.
    pub hedge: bool,
}

/// What waits on the local disk while metadata or bytes cannot be written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// MiB.
    pub disk_mb: u32,
}

impl Default for Spool {
    fn default() -> Self {
        Self { disk_mb: 2048 }
    }
}

impl Store {
    /// What the store needs to know, and how long rows of chats and of audiences are kept that age.
    ///
    /// # Errors
    /// In words, when the file of certificates cannot be used.
    pub fn scylla(&self, chat_keep: Duration, audience_keep: Duration) -> Result<scylla::Settings, String> {
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        let login = some(&self.user).map(|user| (user, self.password.clone().unwrap_or_else(|| Secret::new(""))));
        Ok(scylla::Settings {
            nodes: self.nodes.clone(),
            keyspace: self.keyspace.clone(),
            login,
            datacenter: some(&self.datacenter),
            replicas: self.replicas,
            serial_local: self.serial == Serial::Local,
            tls: self.tls()?,
            create: self.create,
            chat_keep,
            audience_keep,
        })
    }

    fn tls(&self) -> Result<Option<Arc<rustls::ClientConfig>>, String> {
        let Some(path) = &self.tls_ca else { return Ok(None) };
        let failed = |why: &dyn std::fmt::Display| format!("store.tls_ca = {}: {why}", path.display());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|why| failed(&why))? {
            let certificate = certificate.map_err(|why| failed(&why))?;
            roots.add(certificate).map_err(|why| failed(&why))?;
        }
        if roots.is_empty() {
            return Err(failed(&"it holds no certificate"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|why| failed(&why))?.with_root_certificates(roots).with_no_client_auth();
        Ok(Some(Arc::new(config)))
    }
}

impl Blobs {
    /// What the store needs to know; nothing where bytes lie in `data.dir`.
    pub fn objects(&self) -> Option<objects::Settings> {
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        Some(objects::Settings {
            url: self.url.clone()?,
            endpoint: self.endpoint.clone(),
            region: some(&self.region),
            login: some(&self.key).map(|key| (key, self.secret.clone().unwrap_or_else(|| Secret::new("")))),
            virtual_host: self.virtual_host,
            hedge: self.hedge,
        })
    }
}
