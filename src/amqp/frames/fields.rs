//! The data types of AMQP 0-9-1, as far as their limits have to be found: what
//! lapin would not survive is changed in place, and no length ever.

use super::repairs::{RepairKind, Repairs};

/// How deep tables and arrays may be nested; the headers themselves are the
/// first level. RabbitMQ's own headers have 4, and lapin's stack ends at about 700.
pub const MAX_DEPTH: usize = 32;
/// How many values the headers of one message may have, at all levels together.
/// Each takes some hundred bytes once it is parsed, and one octet in a frame.
pub const MAX_VALUES: usize = 4096;

const OPAQUE: u8 = b'x';
/// Of an entry that carries an unreadable table: an empty name, a type, a length.
const ENTRY_OVERHEAD: usize = 6;

/// Why fields can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A type that does not exist, or something that ends beyond its place.
    Structure,
    /// More values than [`MAX_VALUES`].
    TooMany,
}

/// Reads through octets, and repairs as it goes.
pub(super) struct Fields<'a> {
    octets: &'a mut [u8],
    at: usize,
    /// Where the innermost table ends.
    end: usize,
    values: usize,
    repairs: &'a mut Repairs,
}

impl<'a> Fields<'a> {
    pub(super) fn new(octets: &'a mut [u8], repairs: &'a mut Repairs) -> Self {
        let end = octets.len();
        Self {
            octets,
            at: 0,
            end,
            values: 0,
            repairs,
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.end
    }

    /// Passes over so many octets and returns where they are.
    pub(super) fn skip(&mut self, octets: usize) -> Result<std::ops::Range<usize>, Unreadable> {
        let from = self.at;
        match from.checked_add(octets) {
            Some(to) if to <= self.end => {
                self.at = to;
                Ok(from..to)
            }
            _ => Err(Unreadable::Structure),
        }
    }

    pub(super) fn octet(&mut self) -> Result<u8, Unreadable> {
        let range = self.skip(1)?;
        Ok(self.octets[range.start])
    }

    pub(super) fn number<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let range = self.skip(N)?;
        let octets = self.octets[range].first_chunk::<N>();
        octets.copied().ok_or(Unreadable::Structure)
    }

    fn length(&mut self) -> Result<usize, Unreadable> {
        let length = u32::from_be_bytes(self.number()?);
        usize::try_from(length).map_err(|_| Unreadable::Structure)
    }

    /// A short string; returns where its text is.
    pub(super) fn short_string(&mut self) -> Result<std::ops::Range<usize>, Unreadable> {
        let length = self.octet()?;
        let range = self.skip(length.into())?;
        if replace_invalid(&mut self.octets[range.clone()]) {
            self.repairs.add(RepairKind::String);
        }
        Ok(range)
    }

    /// A table that no type octet precedes, as headers are. One that can't be
    /// read becomes a table with one opaque entry, if there is room for that.
    pub(super) fn table(&mut self) -> Result<(), Unreadable> {
        let length = self.length()?;
        let range = self.skip(length)?;
        let Err(error) = self.inside(range.clone(), 1, Self::entries) else {
            return Ok(());
        };
        make_one_entry(&mut self.octets[range])?;
        self.repairs.add(match error {
            Unreadable::Structure => RepairKind::Table,
            Unreadable::TooMany => RepairKind::Size,
        });
        Ok(())
    }

    /// Reads what is in a range with `read`, and goes on behind it.
    fn inside(
        &mut self,
        range: std::ops::Range<usize>,
        depth: usize,
        read: fn(&mut Self, usize) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        let outer = self.end;
        (self.at, self.end) = (range.start, range.end);
        let outcome = read(self, depth);
        (self.at, self.end) = (range.end, outer);
        outcome
    }

    fn entries(&mut self, depth: usize) -> Result<(), Unreadable> {
        while !self.is_at_end() {
            self.short_string()?;
            self.value(depth)?;
        }
        Ok(())
    }

    fn elements(&mut self, depth: usize) -> Result<(), Unreadable> {
        while !self.is_at_end() {
            self.value(depth)?;
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), Unreadable> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Unreadable::TooMany);
        }
        let type_at = self.at;
        let size = match self.octet()? {
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'D' => 5,
            b'V' => 0,
            b'S' | OPAQUE => self.length()?,
            b'F' => return self.container(type_at, depth, Self::entries),
            b'A' => return self.container(type_at, depth, Self::elements),
            _ => return Err(Unreadable::Structure),
        };
        self.skip(size)?;
        Ok(())
    }

    /// A table or an array in a table or an array of that depth. What is too
    /// deep or can't be read becomes octets: the length in front is the same.
    fn container(
        &mut self,
        type_at: usize,
        depth: usize,
        read: fn(&mut Self, usize) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        let length = self.length()?;
        let range = self.skip(length)?;
        let why = match depth < MAX_DEPTH {
            false => RepairKind::Depth,
            true => match self.inside(range, depth + 1, read) {
                Err(Unreadable::Structure) => RepairKind::Table,
                other => return other,
            },
        };
        self.octets[type_at] = OPAQUE;
        self.repairs.add(why);
        Ok(())
    }
}

/// Replaces each octet that belongs to no UTF-8 character, and returns whether
/// there was one.
fn replace_invalid(text: &mut [u8]) -> bool {
    let mut from = 0;
    while let Err(error) = str::from_utf8(&text[from..]) {
        let bad = from + error.valid_up_to();
        let next = error.error_len().map_or(text.len(), |length| bad + length);
        text[bad..next].fill(b'?');
        from = next;
    }
    from > 0
}

/// Makes any table's content readable. One octet can't be.
fn make_one_entry(content: &mut [u8]) -> Result<(), Unreadable> {
    match content.len() {
        0 => {}
        1 => return Err(Unreadable::Structure),
        length @ 2..ENTRY_OVERHEAD => {
            content.fill(b'?');
            // At most 3.
            content[0] = (length - 2) as u8;
            content[length - 1] = b'V';
        }
        length => {
            let rest = u32::try_from(length - ENTRY_OVERHEAD);
            let rest = rest.map_err(|_| Unreadable::Structure)?.to_be_bytes();
            content[..2].copy_from_slice(&[0, OPAQUE]);
            content[2..ENTRY_OVERHEAD].copy_from_slice(&rest);
        }
    }
    Ok(())
}
