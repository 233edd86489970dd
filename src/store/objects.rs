//! Chunk bytes in an object store: S3 and what speaks like it, Google Cloud Storage, Azure.
//!
//! Enter names and whole objects, leave bytes. Nothing rests on conditional puts, which not all stores have. Every call ends
//! within a bound that fits a live stream; a slow put may be tried a second time beside the first (both write the same bytes).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutPayload,
    RetryConfig, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, path::Path,
};
use tokio::time::timeout;
use url::Url;

use super::{Blobs, Child, Error, Result, blobs::legal};
use crate::{media::Pieces, secret::Secret, time::UnixMs};

/// An object store on the same continent is reached in a fraction of that.
const CONNECT: Duration = Duration::from_millis(500);
/// One try at one object.
const TRY: Duration = Duration::from_secs(4);
/// Tries again after a refusal, and until when they begin.
const RETRIES: usize = 2;
const RETRY: Duration = Duration::from_millis(1500);
const BACKOFF: BackoffConfig =
    BackoffConfig { init_backoff: Duration::from_millis(50), max_backoff: Duration::from_millis(500), base: 2.0 };
/// A call with all its tries. Live does not wait so long: what takes longer than a second waits on the local disk.
const CALL: Duration = Duration::from_secs(5);
/// The same of a list, which may have many pages.
const LIST: Duration = Duration::from_secs(60);
/// A put that takes longer is tried a second time beside the first, where that is wished; more for what is large, which
/// takes its time on a link that is full.
const HEDGE: Duration = Duration::from_millis(150);
const HEDGE_BYTES: usize = 1 << 20;
/// Letters of what a store says that are passed on.
const WORDS: usize = 300;

/// Where the objects are, and how to get in.
#[derive(Clone)]
pub struct Settings {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or another form that names one of them.
    pub url: Url,
    /// Of a store that speaks like S3, such as `http://127.0.0.1:9000`.
    pub endpoint: Option<Url>,
    pub region: Option<String>,
    /// Key and secret; without them those of the environment, or of the instance, count.
    pub login: Option<(String, Secret)>,
    /// The bucket is a part of the host's name, not of the path.
    pub virtual_host: bool,
    /// Tries slow puts a second time.
    pub hedge: bool,
}

/// A bucket of blobs, or a part of one.
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The bucket, for messages.
    place: String,
    hedge: bool,
}

impl Objects {
    /// Takes a bucket for the node's blobs: writes, reads and deletes a small object in it.
    ///
    /// # Errors
    /// [`Error::Unfit`] when the settings name no store, the bucket is not there or not to be written; [`Error::Unavailable`] when
    /// nobody answers.
    pub async fn open(settings: &Settings) -> Result<Self> {
        // Two kinds of cryptography are built in, because two libraries bring one each: one must be chosen before it is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut shown = settings.url.clone();
        shown.set_query(None);
        // Neither can fail on a URL with a host; the other kind has none of them.
        let _ = (shown.set_username(""), shown.set_password(None));
        let unfit = |why: &dyn std::fmt::Display| Error::Unfit(format!("blobs.url = {shown}: {why}"));
        if shown != settings.url {
            return Err(unfit(&"it may not hold a key or a query: set blobs.key and blobs.secret"));
        }
        let (scheme, prefix) = ObjectStoreScheme::parse(&settings.url).map_err(|why| unfit(&why))?;
        let is_plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
        let client = ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(TRY).with_allow_http(is_plain);
        let retry = RetryConfig { backoff: BACKOFF, max_retries: RETRIES, retry_timeout: RETRY };
        let url = settings.url.as_str();
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::AmazonS3 => {
                let mut builder = AmazonS3Builder::from_env()
                    .with_url(url)
                    .with_client_options(client)
                    .with_retry(retry)
                    .with_virtual_hosted_style_request(settings.virtual_host)
                    // Not all stores that speak like S3 can, and one by one it may be tried again.
                    .with_disable_bulk_delete(true);
                if let Some(endpoint) = &settings.endpoint {
                    builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
                }
                if let Some(region) = &settings.region {
                    builder = builder.with_region(region);
                }
                if let Some((key, secret)) = &settings.login {
                    builder = builder.with_access_key_id(key).with_secret_access_key(secret.expose());
                }
                Arc::new(builder.build().map_err(|why| unfit(&why))?)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                let builder = GoogleCloudStorageBuilder::from_env().with_url(url);
                Arc::new(builder.with_client_options(client).with_retry(retry).build().map_err(|why| unfit(&why))?)
            }
            ObjectStoreScheme::MicrosoftAzure => {
                let mut builder = MicrosoftAzureBuilder::from_env().with_url(url);
                if let Some((account, secret)) = &settings.login {
                    builder = builder.with_account(account).with_access_key(secret.expose());
                }
                Arc::new(builder.with_client_options(client).with_retry(retry).build().map_err(|why| unfit(&why))?)
            }
            _ => return Err(unfit(&"this is none of s3://, gs:// and az://")),
        };
        let objects = Self { store, prefix, place: shown.to_string(), hedge: settings.hedge };
        objects.probe().await?;
        Ok(objects)
    }

    /// Learns at once whether the bucket can be used.
    async fn probe(&self) -> Result<()> {
        let name = format!("weir-probe/{:016x}", rand::random::<u64>());
        self.put(&name, Bytes::from_static(b"weir").into()).await?;
        let read = self.get(&name).await?;
        if read != "weir" {
            return Err(Error::Unfit(format!("{}: what was written is not what is read", self.place)));
        }
        self.delete(&name).await
    }

    fn path(&self, name: &str) -> Result<Path> {
        let name = legal(name)?;
        Ok(Path::from_iter(self.prefix.parts().chain(name.split('/').map(Into::into))))
    }

    /// Waits for a call, as long as one may take.
    async fn call<T>(&self, name: &str, call: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        match timeout(CALL, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(why)) => Err(self.translate(name, why)),
            Err(_) => Err(Error::Unavailable(format!("{}: no answer for {name} within {CALL:?}", self.place))),
        }
    }

    fn translate(&self, name: &str, why: object_store::Error) -> Error {
        let words = |why: &object_store::Error| {
            let text = why.to_string();
            // Of an answer in XML its code is told, which is a word, and nothing of what was asked.
            let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
            let line = text.split("<?xml").next().unwrap_or_default().lines().next().unwrap_or_default();
            line.chars().chain(code.unwrap_or_default().chars()).take(WORDS).collect::<String>()
        };
        match &why {
            object_store::Error::NotFound { .. } => {
                // A bucket that is not there is not found, too, whatever is asked for.
                let text = why.to_string();
                match text.contains("NoSuchBucket") {
                    true => Error::Unfit(format!("{}: there is no such bucket", self.place)),
                    false => Error::NotFound,
                }
            }
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                let hint = match why.to_string().contains("RequestTimeTooSkewed") {
                    true => "the clock of this machine is wrong",
                    false => "look at blobs.key and blobs.secret, and at what they may do",
                };
                Error::Unfit(format!("{} does not let us in: {hint}", self.place))
            }
            _ => Error::Unavailable(format!("{}: {name}: {}", self.place, words(&why))),
        }
    }
}

#[async_trait]
impl Blobs for Objects {
    async fn put(&self, name: &str, bytes: Pieces) -> Result<()> {
        let path = self.path(name)?;
        let put = || async {
            let payload = PutPayload::from_iter(bytes.iter().cloned());
            self.store.put(&path, payload).await.map(|_| ())
        };
        // Only a bucket can be missing where something is put.
        let told = |why| match why {
            Error::NotFound => Error::Unfit(format!("{}: there is no such bucket", self.place)),
            other => other,
        };
        if !self.hedge {
            return self.call(name, put()).await.map_err(told);
        }
        let put = self.call(name, async {
            let first = Box::pin(put());
            let patience = HEDGE * (1 + bytes.len() / HEDGE_BYTES) as u32;
            match select(first, Box::pin(tokio::time::sleep(patience))).await {
                Either::Left((done, _)) => done,
                Either::Right(((), first)) => {
                    metrics::counter!("weir_store_hedges_total").increment(1);
                    match select(first, Box::pin(put())).await {
                        Either::Left((Ok(()), _)) | Either::Right((Ok(()), _)) => Ok(()),
                        Either::Left((Err(_), second)) => second.await,
                        Either::Right((Err(_), first)) => first.await,
                    }
                }
            }
        });
        put.await.map_err(told)
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        let path = self.path(name)?;
        self.call(name, async { self.store.get(&path).await?.bytes().await }).await
    }

    async fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        let path = self.path(name)?;
        let read = async {
            if range.is_empty() {
                return self.store.head(&path).await.map(|_| Bytes::new());
            }
            let wanted = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
            let read = async { self.store.get_opts(&path, wanted).await?.bytes().await }.await;
            match read {
                Ok(bytes) => Ok(bytes),
                Err(why @ object_store::Error::NotFound { .. }) => Err(why),
                // Stores refuse what begins behind the end.
                Err(why) => match self.store.head(&path).await {
                    Ok(object) if range.start >= object.size => Ok(Bytes::new()),
                    Ok(_) => Err(why),
                    Err(other) => Err(other),
                },
            }
        };
        self.call(name, read).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        match self.call(name, self.store.delete(&path)).await {
            Err(Error::NotFound) => Ok(()),
            done => done,
        }
    }

    async fn list(&self, folder: &str) -> Result<Vec<Child>> {
        let path = if folder.is_empty() { self.prefix.clone() } else { self.path(folder)? };
        let listed = timeout(LIST, self.store.list_with_delimiter(Some(&path))).await;
        let listed = listed.map_err(|_| Error::Unavailable(format!("{}: no list within {LIST:?}", self.place)))?;
        let listed = listed.map_err(|why| self.translate(folder, why))?;
        let own = |path: &Path| {
            let name =
                path.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
            legal(&name).is_ok().then_some(name)
        };
        let folders = listed.common_prefixes.iter().filter_map(own).map(Child::Folder);
        let blobs = listed.objects.iter().filter_map(|object| {
            let modified = UnixMs(object.last_modified.timestamp_millis());
            Some(Child::Blob { name: own(&object.location)?, bytes: object.size, modified })
        });
        Ok(folders.chain(blobs).collect())
    }
}
