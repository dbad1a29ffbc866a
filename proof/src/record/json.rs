//! Reading JSON that is not canonical: for `record canon`, drafts and the edges.
//!
//! `serde_json` reads the syntax; duplicates, floats and depth are refused here.

use core::cell::RefCell;
use core::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use super::error::{BoundsError, CanonError, Place, RecordError};
use super::scan::MAX_DEPTH;
use super::value::{Object, Value};
use super::{FIELDS, Finished, Record};

/// Largest input that is looked at, in bytes: every escape of the largest record spelled out,
/// with room for white space.
const MAX_INPUT_BYTES: usize = 256 * 1024;

/// Reads one JSON object leniently: any key order, white space and escapes; strings are
/// normalised, duplicate keys (after normalisation) and floats are refused.
///
/// # Errors
/// [`RecordError`] naming the rule.
pub fn parse_object(json: &[u8]) -> Result<Object, RecordError> {
    if json.len() > MAX_INPUT_BYTES {
        return Err(BoundsError::RecordTooLarge { bytes: json.len(), limit: MAX_INPUT_BYTES }.into());
    }
    let fault = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = Seed { fault: &fault, depth: 0 }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match read {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(rule(0, "a record is a JSON object".into())),
        Err(error) => {
            let offset = offset(json, &error);
            Err(match fault.into_inner() {
                Some(CanonError::FloatDisallowed { .. }) => {
                    CanonError::FloatDisallowed { place: Place { field: "record", offset } }.into()
                }
                Some(CanonError::KeyOrder { rule, .. }) => {
                    CanonError::KeyOrder { place: Place { field: "record", offset }, rule }.into()
                }
                Some(fault) => fault.into(),
                None => rule(offset, format!("not JSON: {error}")),
            })
        }
    }
}

/// Appends the canonical bytes of a record given as any JSON object of its fields: normalises,
/// then sorts. Where `self_hash` is present it must be the hash of the result.
///
/// # Errors
/// [`RecordError`]: missing, unknown or duplicate keys, floats, and whatever the strict scanner
/// finds in the result.
pub fn canonicalize(json: &[u8]) -> Result<Vec<u8>, RecordError> {
    let object = parse_object(json)?;
    let known = |name: &str| FIELDS.contains(&name) || name == "self_hash";
    if let Some((name, _)) = object.members().iter().find(|(name, _)| !known(name)) {
        return Err(order(format!("unknown key `{name}`")));
    }
    let mut out = Vec::with_capacity(json.len());
    for (number, field) in FIELDS.iter().enumerate() {
        let value = object.get(field).ok_or_else(|| order(format!("the key `{field}` is missing")))?;
        out.extend_from_slice(if number == 0 { b"{\"" } else { b",\"" });
        out.extend_from_slice(field.as_bytes());
        out.extend_from_slice(b"\":");
        value.write(&mut out);
    }
    out.push(b'}');
    Record::parse(&out)?;
    if let Some(claimed) = object.get("self_hash") {
        check_claim(claimed, &out)?;
    }
    Ok(out)
}

/// A `self_hash` that came along must be that of the canonical bytes.
fn check_claim(claimed: &Value, canonical: &[u8]) -> Result<(), RecordError> {
    let mut finished = canonical[..canonical.len() - 1].to_vec();
    finished.extend_from_slice(b",\"self_hash\":");
    claimed.write(&mut finished);
    finished.push(b'}');
    let computed = super::SelfHash::of(canonical);
    match Finished::split(&finished) {
        Some(split) if split.self_hash() == computed => Ok(()),
        _ => {
            let place = Place { field: "self_hash", offset: 0 };
            let rule = format!("is not the hash of the canonical record, {computed}");
            Err(CanonError::NonCanonicalInput { place, rule: rule.into() }.into())
        }
    }
}

fn rule(offset: usize, rule: String) -> RecordError {
    CanonError::NonCanonicalInput { place: Place { field: "record", offset }, rule: rule.into() }.into()
}

fn order(rule: String) -> RecordError {
    CanonError::KeyOrder { place: Place { field: "record", offset: 0 }, rule: rule.into() }.into()
}

/// The byte offset of a `serde_json` error.
fn offset(json: &[u8], error: &serde_json::Error) -> usize {
    let before: usize =
        json.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    before + error.column().saturating_sub(1)
}

/// Reads a value at a depth; leaves the typed reason of a refusal in `fault`.
#[derive(Clone, Copy)]
struct Seed<'s> {
    fault: &'s RefCell<Option<CanonError>>,
    depth: u8,
}

impl Seed<'_> {
    fn refuse<E: serde::de::Error>(self, fault: CanonError) -> E {
        let error = E::custom(&fault);
        *self.fault.borrow_mut() = Some(fault);
        error
    }

    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        // The record itself is one level above `attrs`.
        if self.depth > MAX_DEPTH {
            return Err(E::custom("nested too deep, at most 8 in `attrs`"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    // Also reached by integers beyond 64 bits and by -0.
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Value, E> {
        Err(self.refuse(CanonError::FloatDisallowed { place: Place { field: "record", offset: 0 } }))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut members = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            members.push((key, entries.next_value_seed(seed)?));
        }
        Object::new(members).map(Value::Object).map_err(|fault| {
            let error = A::Error::custom(&fault);
            *self.fault.borrow_mut() = Some(fault);
            error
        })
    }
}
