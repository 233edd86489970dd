//! Reading boxes (14496-12 4.2): their headers, what they contain, and the leaves through `mp4_atom`.

use mp4_atom::{Atom, Decode};

use super::Malformed;

/// The start of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: [u8; 4],
    /// Length of the header itself, 8 or 16.
    pub len: u64,
    /// Length of the box with its header; none when it ends where what contains it ends.
    pub size: Option<u64>,
}

/// Reads a box's header. Err holds how many bytes that takes when these are too few.
pub(super) fn header(bytes: &[u8]) -> Result<Result<Header, u64>, Malformed> {
    let Some((&[a, b, c, d, w, x, y, z], rest)) = bytes.split_first_chunk() else { return Ok(Err(8)) };
    let kind = [w, x, y, z];
    let (len, size) = match u32::from_be_bytes([a, b, c, d]) {
        0 => (8, None),
        1 => match rest.first_chunk() {
            Some(large) => (16, Some(u64::from_be_bytes(*large))),
            None => return Ok(Err(16)),
        },
        size => (8, Some(size.into())),
    };
    match size {
        Some(size) if size < len => Err(Malformed("a box is shorter than its header")),
        size => Ok(Ok(Header { kind, len, size })),
    }
}

/// One box among others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child<'a> {
    pub kind: [u8; 4],
    pub whole: &'a [u8],
    pub body: &'a [u8],
}

impl Child<'_> {
    /// Decodes a box without children.
    pub fn leaf<T: Atom>(&self) -> Result<T, Malformed> {
        T::decode(&mut &self.whole[..]).map_err(|_| Malformed("a box cannot be read"))
    }
}

/// Splits what a box contains into boxes.
pub(super) fn children(mut bytes: &[u8]) -> impl Iterator<Item = Result<Child<'_>, Malformed>> {
    std::iter::from_fn(move || {
        let child = (!bytes.is_empty()).then(|| split(bytes))?;
        // After an error nothing more is found.
        bytes = child.as_ref().map_or(&[], |child| &bytes[child.whole.len()..]);
        Some(child)
    })
}

fn split(bytes: &[u8]) -> Result<Child<'_>, Malformed> {
    let header = header(bytes)?.map_err(|_| Malformed("a box ends within its header"))?;
    let size = match header.size {
        Some(size) => usize::try_from(size).ok().filter(|size| *size <= bytes.len()),
        None => Some(bytes.len()),
    };
    let size = size.ok_or(Malformed("a box is longer than what contains it"))?;
    let whole = &bytes[..size];
    Ok(Child { kind: header.kind, whole, body: &whole[header.len as usize..] })
}

/// Finds the box of a kind of which there must be one.
pub(super) fn only<'a>(bytes: &'a [u8], kind: &[u8; 4], missing: &'static str) -> Result<Child<'a>, Malformed> {
    optional(bytes, kind)?.ok_or(Malformed(missing))
}

/// Finds the box of a kind of which there may be one.
pub(super) fn optional<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Result<Option<Child<'a>>, Malformed> {
    let mut found = None;
    for child in children(bytes) {
        let child = child?;
        if child.kind == *kind && found.replace(child).is_some() {
            return Err(Malformed("a box stands twice where one is meant"));
        }
    }
    Ok(found)
}
