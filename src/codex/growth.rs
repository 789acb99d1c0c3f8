//! What a thread spends, by the running totals that codex reports of it.
//!
//! A total that is repeated is no news: codex repeats the old one, under the
//! new turn's id, when a request fails before it was answered. Nor is one that
//! was reset: where the conversation has become too long for the model, codex
//! puts the size of the model's window in the total's place, and counts from
//! zero. Only what a total grows by was spent.

use crate::event::Tokens;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Growth {
    total: Option<Tokens>,
    spent: Option<Tokens>,
}

impl Growth {
    /// Of a thread with a total known to be zero.
    pub(super) fn of_new_thread() -> Self {
        Self {
            total: Some(Tokens::default()),
            spent: None,
        }
    }

    /// A turn starts.
    pub(super) fn begin(&mut self) {
        self.spent = None;
    }

    /// A total outside the turn.
    pub(super) fn observe(&mut self, total: Tokens) {
        self.total = Some(total);
    }

    /// A total in the turn, and what the last answer in it has cost. Returns
    /// what the turn has spent so far, or `None` if that is as it was.
    pub(super) fn report(&mut self, total: Tokens, last: Option<Tokens>) -> Option<Tokens> {
        let grown = match self.total.replace(total) {
            // After a reset the first answer is all that there is.
            Some(before) => total.since(before).or(last.filter(|last| *last == total)),
            None => last,
        };
        let grown = grown.filter(|grown| *grown != Tokens::default())?;
        self.spent = Some(self.spent.unwrap_or_default().plus(grown));
        self.spent
    }

    /// Returns `None` if no total has grown since the turn started.
    pub(super) fn spent(&self) -> Option<Tokens> {
        self.spent
    }

    pub(super) fn total(&self) -> Option<Tokens> {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: u64, output: u64) -> Tokens {
        Tokens {
            input_tokens: input,
            output_tokens: output,
            ..Tokens::default()
        }
    }

    /// Of input and output tokens.
    type Counts = (u64, u64);

    /// Of reports of a total and of what the last answer has cost.
    fn spent(mut growth: Growth, reports: &[(Counts, Counts)]) -> Option<Tokens> {
        for (total, last) in reports {
            growth.report(tokens(total.0, total.1), Some(tokens(last.0, last.1)));
        }
        growth.spent()
    }

    fn after(input: u64, output: u64) -> Growth {
        let mut growth = Growth::default();
        growth.observe(tokens(input, output));
        growth
    }

    #[test]
    fn g7_only_growth_counts() {
        let new = Growth::of_new_thread();
        for (growth, reports, expected) in [
            (new, &[][..], None),
            (new, &[((100, 20), (100, 20))], Some((100, 20))),
            // A failed request repeats the total, also with another last answer.
            (after(100, 20), &[((100, 20), (100, 20))], None),
            (
                after(100, 20),
                &[((200, 40), (100, 20)), ((200, 40), (0, 0))],
                Some((100, 20)),
            ),
            // The context window is full: after an answer, at once, and again.
            (
                new,
                &[((100, 20), (100, 20)), ((0, 0), (0, 0))],
                Some((100, 20)),
            ),
            (after(0, 0), &[((0, 0), (0, 0))], None),
            (
                after(0, 0),
                &[
                    ((230, 40), (230, 40)),
                    ((460, 80), (230, 40)),
                    ((0, 0), (0, 0)),
                ],
                Some((460, 80)),
            ),
            // Where the reset itself was not seen.
            (after(500, 90), &[((100, 20), (100, 20))], Some((100, 20))),
            (after(500, 90), &[((100, 20), (60, 20))], None),
            // Where one line was lost.
            (new, &[((300, 60), (100, 20))], Some((300, 60))),
            (
                Growth::default(),
                &[((300, 60), (100, 20))],
                Some((100, 20)),
            ),
        ] {
            let expected = expected.map(|(input, output)| tokens(input, output));
            assert_eq!(spent(growth, reports), expected, "{growth:?} {reports:?}");
        }
    }

    #[test]
    fn g7_each_turn_counts_from_its_own_beginning() {
        let mut growth = Growth::of_new_thread();
        growth.report(tokens(100, 20), None);
        growth.begin();
        assert_eq!(growth.spent(), None);
        growth.report(tokens(150, 30), None);
        assert_eq!(growth.spent(), Some(tokens(50, 10)));
        assert_eq!(growth.total(), Some(tokens(150, 30)));
    }
}
