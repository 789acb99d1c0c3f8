//! What is in method and header frames.

use std::ops::Range;

use super::fields::{Fields, Unreadable};
pub use super::fields::{MAX_DEPTH, MAX_VALUES};
use super::repairs::{RepairKind, Repairs};

/// Class, weight, size of the body and flags: a header without properties.
pub(super) const MIN_HEADER: usize = 14;

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrameOutcome {
    /// It has the length that it had.
    Keeps,
    /// The same, and content follows that was published there.
    Routes {
        exchange: Range<usize>,
        routing_key: Range<usize>,
    },
    /// The same, and the broker wants no larger frames.
    Tunes(u32),
    /// No property of its content can be read.
    LosesProperties,
}

/// No producer has any influence on the structure of a method, so one that
/// can't be read is left as it is; lapin then closes the connection.
pub(super) fn method(payload: &mut [u8], repairs: &mut Repairs) -> FrameOutcome {
    read_method(payload, repairs).unwrap_or(FrameOutcome::Keeps)
}

fn read_method(payload: &mut [u8], repairs: &mut Repairs) -> Result<FrameOutcome, Unreadable> {
    let mut fields = Fields::new(payload, repairs);
    let [_, class, _, id] = fields.number()?;
    match (class, id) {
        // connection.start: version and properties.
        (10, 10) => {
            fields.skip(2)?;
            fields.table()?;
        }
        // connection.tune: channels, frame size.
        (10, 30) => {
            fields.skip(2)?;
            return Ok(FrameOutcome::Tunes(u32::from_be_bytes(fields.number()?)));
        }
        // connection.close and channel.close: code, text.
        (10, 50) | (20, 40) => {
            fields.skip(2)?;
            fields.short_string()?;
        }
        // connection.blocked, queue.declare-ok, basic.consume-ok, cancel and cancel-ok.
        (10, 60) | (50, 11) | (60, 21 | 30 | 31) => {
            fields.short_string()?;
        }
        // basic.return: code, text, exchange, key.
        (60, 50) => {
            fields.skip(2)?;
            fields.short_string()?;
            return route(fields);
        }
        // basic.deliver: consumer, tag, redelivered, exchange, key.
        (60, 60) => {
            fields.short_string()?;
            fields.skip(9)?;
            return route(fields);
        }
        // basic.get-ok: tag, redelivered, exchange, key.
        (60, 71) => {
            fields.skip(9)?;
            return route(fields);
        }
        _ => {}
    }
    Ok(FrameOutcome::Keeps)
}

fn route(mut fields: Fields<'_>) -> Result<FrameOutcome, Unreadable> {
    Ok(FrameOutcome::Routes {
        exchange: fields.short_string()?,
        routing_key: fields.short_string()?,
    })
}

pub(super) fn header(payload: &mut [u8], repairs: &mut Repairs) -> FrameOutcome {
    if payload.len() < MIN_HEADER {
        return FrameOutcome::Keeps;
    }
    match read_header(payload, repairs) {
        Ok(()) => FrameOutcome::Keeps,
        Err(_) => {
            repairs.add(RepairKind::Table);
            FrameOutcome::LosesProperties
        }
    }
}

fn read_header(payload: &mut [u8], repairs: &mut Repairs) -> Result<(), Unreadable> {
    let mut fields = Fields::new(payload, repairs);
    fields.skip(MIN_HEADER - 2)?;
    let flags = u16::from_be_bytes(fields.number()?);
    for bit in (2..16).rev().filter(|bit| flags & (1 << bit) != 0) {
        match bit {
            13 => fields.table()?,
            // Delivery mode and priority.
            12 | 11 => {
                fields.skip(1)?;
            }
            // The timestamp.
            6 => {
                fields.skip(8)?;
            }
            _ => {
                fields.short_string()?;
            }
        }
    }
    match fields.is_at_end() {
        true => Ok(()),
        false => Err(Unreadable::Structure),
    }
}
