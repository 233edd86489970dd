//! Rooms: what people say beside a stream.
//!
//! A room has one host, the node that the ring puts first among those that answer: there every message is judged
//! ([`room`]), numbered, stored and only then told. Every other node with viewers of the room follows it on one link ([`rooms`]). What is
//! told goes to a node's viewers through its [`hub`]: encoded once, written in lots, kept in one ring for all sockets, so a
//! reader who is slow costs nobody anything. [`socket`] speaks WebSocket, [`frames`] knows its bytes; who polls reads the same
//! hub. When a host is lost the next one reads what was stored last and goes on with greater numbers; whoever had said
//! something that was not acknowledged says it again under the same nonce.
//!
//! What was said before is read from the store ([`past`]), also beside a recording, for which it is copied ([`keep`]).

pub mod act;
pub mod event;
pub mod frames;
pub mod fuzz;
pub mod hub;
pub mod keep;
pub mod known;
pub mod past;
pub mod room;
pub mod rooms;
pub mod socket;
pub mod text;

pub use act::{Act, Acted, Refusal, Settings, Who};
pub use event::{Event, Message, Role};
pub use rooms::{Alone, PATH, Places, Posted, Rooms, lines};
