//! Lines that another node says in one long answer.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http_body_util::BodyDataStream;
use hyper::StatusCode;
use tokio::time::timeout;
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::StreamReader,
};

use super::upstream::Nodes;

/// Read until the node is silent for too long, or ends. What goes wrong is told in words.
pub struct Lines {
    lines: BoxStream<'static, Result<String, LinesCodecError>>,
    silence: Duration,
}

impl Lines {
    /// Asks a node. It answers within `silence`, and never says nothing for so long; a line has at most `line_max` bytes.
    pub async fn open(
        nodes: &Nodes,
        node: usize,
        path: &str,
        silence: Duration,
        line_max: usize,
    ) -> Result<Self, String> {
        let answer = match timeout(silence, nodes.get(node, path, 0)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(failure)) => return Err(failure.detail.to_string()),
            Err(_) => return Err("no answer".into()),
        };
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err("it refuses our internal.secret".into()),
            status => return Err(format!("it answered {status}: is this its internal port?")),
        }
        let body = BodyDataStream::new(answer.into_body()).map_err(std::io::Error::other);
        let lines = FramedRead::new(StreamReader::new(body), LinesCodec::new_with_max_length(line_max));
        Ok(Self { lines: lines.boxed(), silence })
    }

    pub async fn next(&mut self) -> Result<String, String> {
        match timeout(self.silence, self.lines.next()).await {
            Ok(Some(line)) => line.map_err(|why| why.to_string()),
            Ok(None) => Err("it closed".into()),
            Err(_) => Err("silence".into()),
        }
    }
}
