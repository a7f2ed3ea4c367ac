//! Where each token of a prompt with pictures stands on three axes: time, height, width.
//!
//! A run of text advances all three by one a token. A picture's tokens all stand at the time where it begins; below each
//! other by one on the second axis, beside each other by one on the third. What follows begins one past the largest
//! position so far, so that a picture takes up fewer positions than it has tokens.
//!
//! Not here: angles. Invariant: the positions of a token follow from the prompt up to it alone; past the prompt, index
//! and position differ by one number, [`PromptPositions::rope_delta`].

use super::Grid;

/// Why pictures do not fit the prompt they are said to stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// More picture tokens than pictures.
    #[error("token {index} of the prompt belongs to a picture, found {pictures} pictures, all of them before it")]
    NoPicture {
        /// Where.
        index: u32,
        /// How many pictures there are.
        pictures: usize,
    },
    /// A run of picture tokens that is not as long as its picture.
    #[error("picture {picture} at token {index} of the prompt: expected {expected} picture tokens, found {found}")]
    RunLength {
        /// Which picture.
        picture: usize,
        /// Where its run begins.
        index: u32,
        /// Tokens that the picture makes.
        expected: u32,
        /// Tokens that stand there.
        found: u32,
    },
    /// A picture that the prompt has no tokens for.
    #[error("{pictures} pictures, found picture tokens for {found} of them in the prompt")]
    Unplaced {
        /// How many pictures there are.
        pictures: usize,
        /// How many the prompt has tokens for.
        found: usize,
    },
    /// A picture that begins before the one ahead of it has ended, or past what positions count.
    #[error("picture {picture} at token {index} of the prompt, expected {least}..={}", PromptPositions::TOKENS_MAX)]
    Place {
        /// Which picture.
        picture: usize,
        /// Where it is said to begin.
        index: u32,
        /// First token that it may begin at.
        least: u32,
    },
    /// A prompt longer than positions count.
    #[error("a prompt of {tokens} tokens, expected at most {}", PromptPositions::TOKENS_MAX)]
    TooLong {
        /// Its length.
        tokens: usize,
    },
}

/// A picture's row that stands in for a token's embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureRow {
    /// Which picture of the prompt.
    pub picture: usize,
    /// Which of its tokens.
    pub row: u32,
}

/// The positions of every token of a sequence whose prompt may have pictures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromptPositions {
    runs: Vec<Run>,
    grids: Vec<Grid>,
    tokens: u32,
    /// Position of the first token after the prompt.
    next: u32,
}

/// Tokens of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Index of its first token.
    index: u32,
    /// Where it begins on all axes.
    position: u32,
    /// Its picture; text where there is none.
    picture: Option<usize>,
}

impl PromptPositions {
    /// Longest prompt, tokens: positions are exact in an f32.
    pub const TOKENS_MAX: usize = 1 << 24;

    /// Lays out the prompt `ids`, in which each picture stands as `grid.tokens()` times `picture_token`. The prompt alone: what
    /// a model generates is text, whatever its id.
    ///
    /// # Errors
    /// [`PositionError`] where tokens and pictures do not match.
    pub fn new(ids: &[u32], picture_token: u32, grids: &[Grid]) -> Result<Self, PositionError> {
        let too_long = PositionError::TooLong { tokens: ids.len() };
        let tokens = u32::try_from(ids.len()).map_err(|_| too_long)?;
        if ids.len() > Self::TOKENS_MAX {
            return Err(too_long);
        }
        let mut this = Self { tokens, ..Self::default() };
        let mut index = 0;
        while index < tokens {
            let rest = &ids[index as usize..];
            let picture = rest[0] == picture_token;
            let same = rest.iter().take_while(|id| (**id == picture_token) == picture).count();
            let same = u32::try_from(same).map_err(|_| too_long)?;
            index += if picture { this.push_picture(index, same, grids)? } else { this.push_text(index, same) };
        }
        if this.grids.len() < grids.len() {
            return Err(PositionError::Unplaced { pictures: grids.len(), found: this.grids.len() });
        }
        Ok(this)
    }

    /// As [`Self::new`], for whoever has not the prompt but where each picture begins in it. All that is said of tokens up to
    /// the end of the last picture, and of any token after it, is the same; [`Self::tokens`] ends with that picture.
    ///
    /// # Errors
    /// [`PositionError::Place`].
    pub fn of_places(places: impl IntoIterator<Item = (u32, Grid)>) -> Result<Self, PositionError> {
        let mut this = Self::default();
        for (picture, (index, grid)) in places.into_iter().enumerate() {
            let least = this.tokens;
            let end = index.checked_add(grid.tokens()).filter(|end| *end as usize <= Self::TOKENS_MAX);
            let (Some(end), Some(text)) = (end, index.checked_sub(least)) else {
                return Err(PositionError::Place { picture, index, least });
            };
            if text > 0 {
                this.push_text(least, text);
            }
            this.push_run(index, grid);
            this.tokens = end;
        }
        Ok(this)
    }

    fn push_text(&mut self, index: u32, tokens: u32) -> u32 {
        self.runs.push(Run { index, position: self.next, picture: None });
        self.next += tokens;
        tokens
    }

    /// Takes the next picture's tokens off a run of `found` of them.
    fn push_picture(&mut self, index: u32, found: u32, grids: &[Grid]) -> Result<u32, PositionError> {
        let picture = self.grids.len();
        let grid = *grids.get(picture).ok_or(PositionError::NoPicture { index, pictures: grids.len() })?;
        let expected = grid.tokens();
        // Pictures that follow each other without a word between share a run.
        let last = picture + 1 == grids.len();
        if found < expected || (last && found > expected) {
            return Err(PositionError::RunLength { picture, index, expected, found });
        }
        self.push_run(index, grid);
        Ok(expected)
    }

    fn push_run(&mut self, index: u32, grid: Grid) {
        self.runs.push(Run { index, position: self.next, picture: Some(self.grids.len()) });
        self.grids.push(grid);
        self.next += grid.token_rows().max(grid.token_columns());
    }

    /// Tokens of the prompt.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// The prompt's pictures.
    #[must_use]
    pub fn grids(&self) -> &[Grid] {
        &self.grids
    }

    /// What is added to the index of a token after the prompt to get its position; not above 0.
    #[must_use]
    pub fn rope_delta(&self) -> i64 {
        i64::from(self.next) - i64::from(self.tokens)
    }

    /// Time, height and width of token `index` of the sequence, the generated ones included.
    #[must_use]
    pub fn at(&self, index: u32) -> [u32; 3] {
        if index >= self.tokens {
            return [index - self.tokens + self.next; 3];
        }
        let run = self.run_of(index);
        let within = index - run.index;
        match run.picture {
            None => [run.position + within; 3],
            Some(picture) => {
                let columns = self.grids[picture].token_columns();
                [run.position, run.position + within / columns, run.position + within % columns]
            }
        }
    }

    /// The picture's row that stands at token `index`, where it is not text.
    #[must_use]
    pub fn picture_row(&self, index: u32) -> Option<PictureRow> {
        if index >= self.tokens {
            return None;
        }
        let run = self.run_of(index);
        run.picture.map(|picture| PictureRow { picture, row: index - run.index })
    }

    /// The run that holds a token of the prompt.
    fn run_of(&self, index: u32) -> Run {
        let after = self.runs.partition_point(|run| run.index <= index);
        self.runs[after - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE: u32 = 9;

    fn grid(rows: u32, columns: u32) -> Grid {
        Grid::new(rows, columns, 2).expect("whole tokens")
    }

    #[test]
    fn text_stands_at_its_index() {
        let text = PromptPositions::new(&[1, 2, 3], PICTURE, &[]).expect("no pictures");
        assert_eq!((0..5).map(|i| text.at(i)).collect::<Vec<_>>(), [[0; 3], [1; 3], [2; 3], [3; 3], [4; 3]]);
        assert_eq!((text.rope_delta(), text.picture_row(1)), (0, None));
        assert_eq!(PromptPositions::new(&[], PICTURE, &[]).map(|p| p.at(2)), Ok([2; 3]));
    }

    #[test]
    fn a_picture_spreads_over_two_axes_and_text_goes_on_past_its_longer_side() {
        let ids = [1, 9, 9, 9, 9, 9, 9, 2];
        let all = PromptPositions::new(&ids, PICTURE, &[grid(4, 6)]).expect("six tokens");
        let expected = [[0; 3], [1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 1], [1, 2, 2], [1, 2, 3], [4; 3]];
        assert_eq!((0..8).map(|i| all.at(i)).collect::<Vec<_>>(), expected);
        assert_eq!((all.rope_delta(), all.at(8), all.at(20)), (-3, [5; 3], [17; 3]));
        assert_eq!(all.picture_row(3), Some(PictureRow { picture: 0, row: 2 }));
        assert_eq!((all.picture_row(0), all.picture_row(7), all.picture_row(8)), (None, None, None));
    }

    #[test]
    fn pictures_side_by_side_share_a_run() {
        let all = PromptPositions::new(&[9, 9, 9], PICTURE, &[grid(2, 2), grid(4, 2)]).expect("three tokens");
        assert_eq!((0..4).map(|i| all.at(i)).collect::<Vec<_>>(), [[0; 3], [1, 1, 1], [1, 2, 1], [3; 3]]);
        assert_eq!(all.picture_row(2), Some(PictureRow { picture: 1, row: 1 }));
    }

    #[test]
    fn places_say_as_much_as_the_prompt() {
        let (ids, grids) = ([1, 9, 9, 9, 9, 9, 9, 9, 2, 9, 3, 4], [grid(4, 6), grid(2, 2), grid(2, 2)]);
        let prompt = PromptPositions::new(&ids, PICTURE, &grids).expect("they match");
        let placed = PromptPositions::of_places([1, 7, 9].into_iter().zip(grids)).expect("apart");
        for index in 0..40 {
            assert_eq!(placed.at(index), prompt.at(index), "{index}");
            assert_eq!(placed.picture_row(index), prompt.picture_row(index), "{index}");
        }
        assert_eq!((placed.tokens(), placed.grids(), placed.rope_delta()), (10, prompt.grids(), prompt.rope_delta()));
        let none = PromptPositions::of_places([]).expect("text");
        assert_eq!((none.at(7), none.picture_row(0)), ([7; 3], None));
    }

    #[test]
    fn places_must_not_overlap() {
        let refused = |at: [u32; 2]| PromptPositions::of_places(at.map(|at| (at, grid(2, 4)))).expect_err("refused");
        assert_eq!(refused([3, 4]), PositionError::Place { picture: 1, index: 4, least: 5 });
        assert_eq!(refused([0, u32::MAX]), PositionError::Place { picture: 1, index: u32::MAX, least: 2 });
        assert!(PromptPositions::of_places([(3, grid(2, 4)), (5, grid(2, 4))]).is_ok());
    }

    #[test]
    fn tokens_and_pictures_must_match() {
        let one = [grid(2, 4)];
        let refused = |ids: &[u32], grids: &[Grid]| PromptPositions::new(ids, PICTURE, grids).expect_err("refused");
        assert_eq!(refused(&[1, 9], &[]), PositionError::NoPicture { index: 1, pictures: 0 });
        assert_eq!(refused(&[9, 9, 1, 9], &one), PositionError::NoPicture { index: 3, pictures: 1 });
        let length = |found| PositionError::RunLength { picture: 0, index: 1, expected: 2, found };
        assert_eq!(refused(&[1, 9, 2], &one), length(1));
        assert_eq!(refused(&[1, 9, 9, 9], &one), length(3));
        assert_eq!(refused(&[1, 2], &one), PositionError::Unplaced { pictures: 1, found: 0 });
    }
}
