//! AMF0 from the network, within limits of depth, number and size.
//!
//! Payloads of command and data messages enter, [`Amf0Value`]s leave. The recursion is bounded, so no input can exhaust the
//! stack. Values that the type cannot hold are mapped: dates to their milliseconds, long strings and XML to strings, ECMA
//! arrays and typed objects to objects, references and `unsupported` to `Undefined`.

use std::collections::HashMap;

use rml_amf0::Amf0Value;

/// A `connect` has two levels, metadata three.
const DEPTH_MAX: usize = 16;
/// Values in one message, nested ones included.
const VALUES_MAX: usize = 1024;
/// Commands and metadata are a few hundred bytes; a list of HTTP-style keyframe positions has no place in live metadata.
const BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("values nested deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("more than {VALUES_MAX} values")]
    TooMany,
    #[error("{0} bytes, the limit is {BYTES_MAX}")]
    TooBig(usize),
    #[error("the message ends within a value")]
    Truncated,
    #[error("AMF3 is not supported")]
    Amf3,
    #[error("unknown type marker {0}")]
    Marker(u8),
}

impl Error {
    /// Tells whether a limit was crossed, which no honest publisher does.
    pub fn is_limit(&self) -> bool {
        matches!(self, Error::TooDeep | Error::TooMany | Error::TooBig(_))
    }
}

/// Reads all values of a payload.
pub fn decode(data: &[u8]) -> Result<Vec<Amf0Value>, Error> {
    if data.len() > BYTES_MAX {
        return Err(Error::TooBig(data.len()));
    }
    let mut decoder = Decoder { data, values: 0 };
    let mut all = Vec::new();
    while !decoder.data.is_empty() {
        all.push(decoder.value(0)?);
    }
    Ok(all)
}

/// Reads the payload of a message that is marked as AMF3 (types 15 and 17): publishers put a zero byte before plain AMF0.
pub fn decode_marked_amf3(data: &[u8]) -> Result<Vec<Amf0Value>, Error> {
    decode(data.strip_prefix(&[0]).unwrap_or(data))
}

/// Gives the text of a string value.
pub fn text(value: &Amf0Value) -> Option<&str> {
    match value {
        Amf0Value::Utf8String(text) => Some(text),
        _ => None,
    }
}

/// Gives the number of a number value.
pub fn number(value: &Amf0Value) -> Option<f64> {
    match value {
        Amf0Value::Number(number) => Some(*number),
        _ => None,
    }
}

/// Gives the properties of an object value.
pub fn properties(value: &Amf0Value) -> Option<&HashMap<String, Amf0Value>> {
    match value {
        Amf0Value::Object(properties) => Some(properties),
        _ => None,
    }
}

struct Decoder<'a> {
    data: &'a [u8],
    values: usize,
}

impl<'a> Decoder<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.data.split_at_checked(len).ok_or(Error::Truncated)?;
        self.data = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.data.split_first_chunk().ok_or(Error::Truncated)?;
        self.data = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<f64, Error> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    fn short_text(&mut self) -> Result<String, Error> {
        let len = u16::from_be_bytes(self.array()?);
        Ok(String::from_utf8_lossy(self.take(usize::from(len))?).into_owned())
    }

    fn long_text(&mut self) -> Result<String, Error> {
        let len = u32::from_be_bytes(self.array()?);
        Ok(String::from_utf8_lossy(self.take(len as usize)?).into_owned())
    }

    fn value(&mut self, depth: usize) -> Result<Amf0Value, Error> {
        if depth == DEPTH_MAX {
            return Err(Error::TooDeep);
        }
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(Error::TooMany);
        }
        let [marker] = self.array()?;
        Ok(match marker {
            0 => Amf0Value::Number(self.number()?),
            1 => Amf0Value::Boolean(self.array::<1>()? != [0]),
            2 => Amf0Value::Utf8String(self.short_text()?),
            3 => self.object(depth, false)?,
            5 => Amf0Value::Null,
            6 | 13 => Amf0Value::Undefined,
            7 => {
                self.array::<2>()?;
                Amf0Value::Undefined
            }
            8 => {
                // The count is a hint, and wrong in many encoders.
                self.array::<4>()?;
                self.object(depth, true)?
            }
            10 => {
                let count = u32::from_be_bytes(self.array()?);
                // Every element is at least its marker, so a hostile count fails before it costs anything.
                if count as usize > self.data.len() {
                    return Err(Error::Truncated);
                }
                let elements: Result<Vec<_>, _> = (0..count).map(|_| self.value(depth + 1)).collect();
                Amf0Value::StrictArray(elements?)
            }
            11 => {
                let at = self.number()?;
                self.array::<2>()?;
                Amf0Value::Number(at)
            }
            12 | 15 => Amf0Value::Utf8String(self.long_text()?),
            16 => {
                self.short_text()?;
                self.object(depth, false)?
            }
            17 => return Err(Error::Amf3),
            other => return Err(Error::Marker(other)),
        })
    }

    /// Reads properties to the end marker. Some encoders leave it out at the end of an ECMA array (`open_end`).
    fn object(&mut self, depth: usize, open_end: bool) -> Result<Amf0Value, Error> {
        const END: &[u8] = &[0, 0, 9];
        let mut properties = HashMap::new();
        loop {
            if let Some(rest) = self.data.strip_prefix(END) {
                self.data = rest;
                break;
            }
            if open_end && self.data.is_empty() {
                break;
            }
            let name = self.short_text()?;
            let value = self.value(depth + 1)?;
            properties.insert(name, value);
        }
        Ok(Amf0Value::Object(properties))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&[2], &(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
    }

    #[test]
    fn every_marker_is_read_or_refused() {
        let text = |t: &str| Amf0Value::Utf8String(t.into());
        let object = |k: &str, v| Amf0Value::Object([(k.to_owned(), v)].into());
        for (bytes, wanted) in [
            (vec![], Ok(vec![])),
            ([&[0][..], &1.5f64.to_be_bytes()].concat(), Ok(vec![Amf0Value::Number(1.5)])),
            (vec![1, 1, 1, 0], Ok(vec![Amf0Value::Boolean(true), Amf0Value::Boolean(false)])),
            (string("ab"), Ok(vec![text("ab")])),
            (vec![2, 0, 1, 0xff], Ok(vec![text("\u{fffd}")])),
            (vec![3, 0, 1, b'k', 5, 0, 0, 9], Ok(vec![object("k", Amf0Value::Null)])),
            (vec![5, 6, 13, 7, 0, 1], {
                Ok(vec![Amf0Value::Null, Amf0Value::Undefined, Amf0Value::Undefined, Amf0Value::Undefined])
            }),
            (vec![8, 0, 0, 0, 99, 0, 1, b'k', 5, 0, 0, 9], Ok(vec![object("k", Amf0Value::Null)])),
            (vec![8, 0, 0, 0, 1, 0, 1, b'k', 5], Ok(vec![object("k", Amf0Value::Null)])),
            (vec![10, 0, 0, 0, 2, 5, 6], Ok(vec![Amf0Value::StrictArray(vec![Amf0Value::Null, Amf0Value::Undefined])])),
            ([&[11][..], &2.0f64.to_be_bytes(), &[0, 0]].concat(), Ok(vec![Amf0Value::Number(2.0)])),
            (vec![12, 0, 0, 0, 1, b'x', 15, 0, 0, 0, 1, b'y'], Ok(vec![text("x"), text("y")])),
            (vec![16, 0, 1, b'C', 0, 1, b'k', 5, 0, 0, 9], Ok(vec![object("k", Amf0Value::Null)])),
            (vec![17, 1], Err(Error::Amf3)),
            (vec![4], Err(Error::Marker(4))),
            (vec![200], Err(Error::Marker(200))),
            (vec![2, 0, 3, b'a'], Err(Error::Truncated)),
            (vec![12, 0xff, 0xff, 0xff, 0xff], Err(Error::Truncated)),
            (vec![10, 0xff, 0xff, 0xff, 0xff, 5], Err(Error::Truncated)),
            (vec![3, 0, 1, b'k', 5], Err(Error::Truncated)),
        ] {
            assert_eq!(decode(&bytes), wanted, "{bytes:?}");
        }
    }

    #[test]
    fn limits_are_exact() {
        let nested = |levels: usize| [[10, 0, 0, 0, 1].repeat(levels - 1), vec![5]].concat();
        assert!(decode(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(decode(&nested(DEPTH_MAX + 1)), Err(Error::TooDeep));
        assert_eq!(decode(&[3, 0, 1, b'a'].repeat(16_000)), Err(Error::TooDeep));
        assert!(decode(&[5; VALUES_MAX]).is_ok());
        assert_eq!(decode(&[5; VALUES_MAX + 1]), Err(Error::TooMany));
        assert_eq!(decode(&vec![5; BYTES_MAX + 1]), Err(Error::TooBig(BYTES_MAX + 1)));
    }

    #[test]
    fn a_zero_before_amf0_is_skipped_in_messages_marked_as_amf3() {
        let bytes = [vec![0], string("connect")].concat();
        assert_eq!(decode_marked_amf3(&bytes), Ok(vec![Amf0Value::Utf8String("connect".into())]));
        assert_eq!(decode_marked_amf3(&string("connect")), Ok(vec![Amf0Value::Utf8String("connect".into())]));
    }

    fn any_value() -> impl Strategy<Value = Amf0Value> {
        let leaf = prop_oneof![
            (-1e9..1e9).prop_map(Amf0Value::Number),
            any::<bool>().prop_map(Amf0Value::Boolean),
            ".{0,20}".prop_map(Amf0Value::Utf8String),
            Just(Amf0Value::Null),
            Just(Amf0Value::Undefined),
        ];
        leaf.prop_recursive(6, 60, 5, |inner| {
            prop_oneof![
                prop::collection::hash_map("[a-z]{1,8}", inner.clone(), 0..5).prop_map(Amf0Value::Object),
                prop::collection::vec(inner, 0..5).prop_map(Amf0Value::StrictArray),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_the_serializer_writes_is_read_back(values in prop::collection::vec(any_value(), 0..6)) {
            let bytes = rml_amf0::serialize(&values).unwrap();
            prop_assert_eq!(decode(&bytes), Ok(values));
        }
    }
}
