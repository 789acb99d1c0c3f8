//! Which of a turn's events are new to a reader.

/// What a reader has seen of a turn.
#[derive(Debug, Default)]
pub struct Order {
    newest: Option<(u32, u64)>,
}

/// How a new event follows on what came before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrival {
    /// A higher attempt started: what was shown so far is void.
    pub restarted: bool,
    /// Events of the attempt that never came.
    pub missed: u64,
}

impl Order {
    /// `None` for an event that is not newer than the newest.
    pub fn place(&mut self, attempt: u32, seq: u64) -> Option<Arrival> {
        let (restarted, expected) = match self.newest {
            Some(newest) if (attempt, seq) <= newest => return None,
            Some((newest, last)) if newest == attempt => (false, last + 1),
            newest => (newest.is_some(), 0),
        };
        self.newest = Some((attempt, seq));
        Some(Arrival {
            restarted,
            missed: seq - expected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g5_what_comes_again_is_dropped_and_a_higher_attempt_starts_over() {
        let new = |restarted, missed| Some(Arrival { restarted, missed });
        let mut order = Order::default();
        for (attempt, seq, arrival) in [
            (1, 0, new(false, 0)),
            (1, 1, new(false, 0)),
            (1, 1, None),
            (1, 0, None),
            (1, 4, new(false, 2)),
            (1, 3, None),
            (3, 0, new(true, 0)),
            (1, 5, None),
            (2, 0, None),
            (3, 1, new(false, 0)),
            (4, 2, new(true, 2)),
        ] {
            assert_eq!(order.place(attempt, seq), arrival, "{attempt}/{seq}");
        }
        assert_eq!(Order::default().place(0, 0), new(false, 0));
        assert_eq!(Order::default().place(2, 3), new(false, 3));
    }
}
