//! A publisher that costs next to nothing: it sends a clip that was encoded before, in real time, over and over.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rml_rtmp::{
    handshake::{Handshake, HandshakeProcessResult, PeerType},
    sessions::{ClientSession, ClientSessionConfig, ClientSessionEvent, ClientSessionResult, PublishRequestType},
    time::RtmpTimestamp,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};
use weir::time::{Timestamp, now};

use crate::clip::{Clip, Frame};

const PATIENCE: Duration = Duration::from_secs(10);

/// A running publisher; stops when dropped.
pub struct Publisher {
    task: JoinHandle<Result<()>>,
    /// When its connection was opened.
    pub opened: Timestamp,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Publisher {
    /// Connects, asks to publish and starts to send.
    pub async fn start(port: u16, app: &str, key: &str, clip: Arc<Clip>) -> Result<Self> {
        let opened = now();
        let link = timeout(PATIENCE, Link::open(port, app, key));
        let mut link = link.await.context("the server does not answer a publisher")??;
        let task = tokio::spawn(async move { link.send(&clip).await });
        Ok(Self { task, opened })
    }

    /// Fails when the publisher was cut off.
    pub async fn check(&mut self) -> Result<()> {
        if !self.task.is_finished() {
            return Ok(());
        }
        (&mut self.task).await?.and_then(|()| bail!("a publisher ended"))
    }
}

struct Link {
    socket: TcpStream,
    session: ClientSession,
}

impl Link {
    async fn open(port: u16, app: &str, key: &str) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut socket = TcpStream::connect(address).await.context("cannot connect to the server")?;
        socket.set_nodelay(true)?;
        let mut handshake = Handshake::new(PeerType::Client);
        let hello = handshake.generate_outbound_p0_and_p1().map_err(broken)?;
        socket.write_all(&hello).await?;
        let mut buffer = vec![0; 16 << 10];
        let mut input = loop {
            let read = read(&mut socket, &mut buffer).await?;
            match handshake.process_bytes(&buffer[..read]).map_err(broken)? {
                HandshakeProcessResult::InProgress { response_bytes } => socket.write_all(&response_bytes).await?,
                HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                    socket.write_all(&response_bytes).await?;
                    break remaining_bytes;
                }
            }
        };
        let config =
            ClientSessionConfig { tc_url: Some(format!("rtmp://{address}/{app}")), ..ClientSessionConfig::new() };
        let (session, results) = ClientSession::new(config).map_err(broken)?;
        let mut link = Self { socket, session };
        link.obey(results).await?;
        let connect = link.session.request_connection(app.to_owned()).map_err(broken)?;
        link.obey(vec![connect]).await?;
        loop {
            let results = link.session.handle_input(&input).map_err(broken)?;
            for event in link.obey(results).await? {
                match event {
                    ClientSessionEvent::ConnectionRequestAccepted => {
                        let publish = link.session.request_publishing(key.to_owned(), PublishRequestType::Live);
                        link.obey(vec![publish.map_err(broken)?]).await?;
                    }
                    ClientSessionEvent::PublishRequestAccepted => return Ok(link),
                    ClientSessionEvent::ConnectionRequestRejected { description } => bail!("refused: {description}"),
                    ClientSessionEvent::UnhandleableOnStatusCode { code } => bail!("refused: {code}"),
                    _ => {}
                }
            }
            let read = read(&mut link.socket, &mut buffer).await?;
            input = buffer[..read].to_vec();
        }
    }

    /// Sends what the session wants to send; gives what it has to tell.
    async fn obey(&mut self, results: Vec<ClientSessionResult>) -> Result<Vec<ClientSessionEvent>> {
        let mut events = Vec::new();
        for result in results {
            match result {
                ClientSessionResult::OutboundResponse(packet) => self.socket.write_all(&packet.bytes).await?,
                ClientSessionResult::RaisedEvent(event) => events.push(event),
                ClientSessionResult::UnhandleableMessageReceived(_) => {}
            }
        }
        Ok(events)
    }

    async fn send(&mut self, clip: &Clip) -> Result<()> {
        let start = now();
        let mut buffer = vec![0; 4 << 10];
        for header in &clip.headers {
            self.frame(header, 0).await?;
        }
        for round in 0.. {
            for frame in &clip.frames {
                let at_ms = round * clip.length_ms + frame.at_ms;
                let due = start + Duration::from_millis(at_ms.into());
                loop {
                    tokio::select! {
                        biased;
                        () = sleep(due - now()) => break,
                        read = read(&mut self.socket, &mut buffer) => {
                            let results = self.session.handle_input(&buffer[..read?]).map_err(broken)?;
                            self.obey(results).await?;
                        }
                    }
                }
                self.frame(frame, at_ms).await?;
            }
        }
        Ok(())
    }

    async fn frame(&mut self, frame: &Frame, at_ms: u32) -> Result<()> {
        let (body, at) = (frame.body.clone(), RtmpTimestamp::new(at_ms));
        let sent = match frame.video {
            true => self.session.publish_video_data(body, at, false),
            false => self.session.publish_audio_data(body, at, false),
        };
        self.obey(vec![sent.map_err(broken)?]).await.map(drop)
    }
}

async fn read(socket: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    match socket.read(buffer).await? {
        0 => bail!("the server closed the connection"),
        read => Ok(read),
    }
}

fn broken(why: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("RTMP client: {why:?}")
}
