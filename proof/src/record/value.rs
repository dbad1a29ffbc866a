//! JSON values as `attrs` may hold them, sorted and normalised from the start.

use std::borrow::Cow;

use super::error::{CanonError, Place};
use super::text::{compare_utf16_plain, to_nfc, write_string};

/// An integer from -2^63 to 2^64-1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Integer(i128);

impl Integer {
    /// The value.
    pub const fn get(self) -> i128 {
        self.0
    }
}

impl From<u64> for Integer {
    fn from(value: u64) -> Self {
        Self(i128::from(value))
    }
}

impl From<i64> for Integer {
    fn from(value: i64) -> Self {
        Self(i128::from(value))
    }
}

/// A value inside `attrs`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer.
    Integer(Integer),
    /// A string; written in normalization form C.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

/// An object: keys in normalization form C, unique, sorted by UTF-16 code units.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Object(Vec<(String, Value)>);

impl Object {
    /// Sorts and normalises the members.
    ///
    /// # Errors
    /// [`CanonError::KeyOrder`] where two keys are equal after normalisation.
    pub fn new(mut members: Vec<(String, Value)>) -> Result<Self, CanonError> {
        for (key, _) in &mut members {
            if let Cow::Owned(normal) = to_nfc(key) {
                *key = normal;
            }
        }
        members.sort_by(|a, b| compare_utf16_plain(&a.0, &b.0));
        if let Some(pair) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(CanonError::KeyOrder {
                place: Place { field: "record", offset: 0 },
                rule: format!("the key {:?} occurs twice", pair[0].0).into(),
            });
        }
        Ok(Self(members))
    }

    /// The members in order.
    pub fn members(&self) -> &[(String, Value)] {
        &self.0
    }

    /// The member of that name.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Takes the member of that name out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(at).1)
    }

    /// The canonical bytes (RFC 8785). Depth and length are bounded by whoever built the object.
    pub fn to_canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Appends the canonical bytes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, (key, value)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_string(key, out);
            out.push(b':');
            value.write(out);
        }
        out.push(b'}');
    }
}

impl Value {
    /// Appends the canonical bytes. Depth is bounded by whoever built the value.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Integer(integer) => write_integer(integer.0, out),
            Self::String(text) => write_string(&to_nfc(text), out),
            Self::Array(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Object(object) => object.write(out),
        }
    }
}

/// Appends a decimal integer.
pub(super) fn write_integer(value: i128, out: &mut Vec<u8>) {
    use std::io::Write as _;
    write!(out, "{value}").expect("writing to a Vec cannot fail");
}
