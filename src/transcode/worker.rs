//! The transcoder child: wire frames on stdin (a [`Spec`], then the feed), wire frames on stdout, one channel per rung; logs on
//! stderr. One child encodes one epoch; it ends when its input does, so it never outlives its parent.

use std::{
    io::{self, Read, Write},
    sync::mpsc::{Receiver, sync_channel},
};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Spec,
    encoder::{Encoder, Error as EncoderError, Output},
};
use crate::media::{Message, wire};

/// Hidden subcommand of [`run`].
pub const SUBCOMMAND: &str = "transcode-worker";

/// Why the worker ends before its input does. The parent starts another.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the feed: {0}")]
    Read(io::Error),
    #[error("writing packets: {0}")]
    Write(io::Error),
    #[error(transparent)]
    Wire(#[from] wire::Error),
    #[error("the feed does not begin with a spec: {0}")]
    Spec(String),
    #[error(transparent)]
    Encoder(#[from] EncoderError),
}

/// Packets on their way out. Full: the encoders wait, and in the end the parent does.
const OUT_MAX: usize = 64;
const READ_LEN: usize = 64 * 1024;

/// Runs on stdin and stdout. The body of the hidden subcommand.
pub fn run() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(io::stderr).without_time().with_ansi(false).init();
    // GStreamer prints on stderr, too; nothing but frames may reach stdout.
    Ok(run_with(io::stdin().lock(), io::stdout(), lower_priority)?)
}

/// Encodes what `input` holds into `output` until it ends. `nice` gets the niceness that the spec asks for.
pub fn run_with(mut input: impl Read, output: impl Write + Send, nice: impl FnOnce(u8)) -> Result<(), Error> {
    let mut decoder = wire::Decoder::new();
    let Some(frame) = next(&mut input, &mut decoder)? else { return Ok(()) };
    let wire::Frame::Spec(spec) = frame else { return Err(Error::Spec("it begins with another frame".into())) };
    let spec: Spec = serde_json::from_slice(&spec).map_err(|e| Error::Spec(e.to_string()))?;
    nice(spec.nice);

    let (out, outputs) = sync_channel(OUT_MAX);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || write_all(output, &outputs));
        let fed = Encoder::start(&spec, out).map_err(Error::from).and_then(|mut encoder| {
            let at = feed(&mut input, &mut decoder, &mut encoder)?;
            Ok(encoder.end(at)?)
        });
        // The pipeline is gone and with it every sender: the writer ends.
        let written = writer.join().expect("the writer does not panic");
        written.map_err(Error::Write).and(fed)
    })
}

/// Feeds the encoder until the input ends; gives the end's time when the input tells it.
fn feed(input: &mut impl Read, decoder: &mut wire::Decoder, encoder: &mut Encoder) -> Result<Option<i64>, Error> {
    while let Some(frame) = next(input, decoder)? {
        match frame {
            wire::Frame::Spec(_) => return Err(Error::Spec("a second spec".into())),
            wire::Frame::Drop { channel } => encoder.shed(channel),
            wire::Frame::Message { message, .. } => match message {
                Message::Video(config) => encoder.video(&config)?,
                Message::Packet(packet) => encoder.packet(&packet)?,
                Message::End { at } => return Ok(Some(at)),
                Message::Epoch(_) | Message::Audio(_) | Message::Mode { .. } => {}
            },
        }
    }
    Ok(None)
}

fn next(input: &mut impl Read, decoder: &mut wire::Decoder) -> Result<Option<wire::Frame>, Error> {
    loop {
        if let Some(frame) = decoder.poll()? {
            return Ok(Some(frame));
        }
        let buffer = decoder.buffer();
        let len = buffer.len();
        buffer.resize(len + READ_LEN, 0);
        let read = loop {
            match input.read(&mut buffer[len..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        buffer.truncate(len + *read.as_ref().unwrap_or(&0));
        match read {
            // A parent that dies in the middle of a frame is still an end.
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(e) => return Err(Error::Read(e)),
        }
    }
}

fn write_all(mut output: impl Write, outputs: &Receiver<Output>) -> io::Result<()> {
    let mut encoder = wire::Encoder::new();
    let mut head = BytesMut::new();
    for item in outputs {
        let (channel, message) = match item {
            Output::Config { channel, config } => (channel, Message::Video(config)),
            Output::Packet { channel, packet } => (channel, Message::Packet(packet)),
            Output::End { channel, at } => (channel, Message::End { at }),
        };
        let frame = wire::Frame::Message { channel, message };
        let payload: Bytes = encoder.encode(frame, &mut head).map_err(io::Error::other)?;
        output.write_all(&head)?;
        output.write_all(&payload)?;
        output.flush()?;
        head.advance(head.len());
    }
    Ok(())
}

/// Lets ingest and delivery go first.
#[allow(unsafe_code)]
pub(super) fn lower_priority(by: u8) {
    // SAFETY: `nice` takes a number and touches no memory. Failing leaves the priority as it was.
    unsafe { libc::nice(i32::from(by.min(19))) };
}
