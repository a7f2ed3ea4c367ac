//! How many patches a picture has.
//!
//! Invariant: sides are whole tokens, and the number of patches is bounded.

use super::Size;

/// Patches of one still picture, in rows and columns; both multiples of the merge size it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    rows: u32,
    columns: u32,
    merge: u32,
}

impl Grid {
    /// Most patches of one picture: at 14 pixels a side, 12.8 million pixels.
    pub const PATCHES_MAX: u32 = 1 << 16;

    /// A grid of `rows` × `columns` patches of which `merge` × `merge` make one token. `None` where a side is 0 or not
    /// whole tokens, or there are more than [`Self::PATCHES_MAX`] patches.
    #[must_use]
    pub fn new(rows: u32, columns: u32, merge: u32) -> Option<Self> {
        let whole = |side: u32| side > 0 && merge > 0 && side.is_multiple_of(merge);
        let bounded = rows.checked_mul(columns).is_some_and(|n| n <= Self::PATCHES_MAX);
        (whole(rows) && whole(columns) && bounded).then_some(Self { rows, columns, merge })
    }

    /// The grid of a picture of `size` pixels in patches of `patch` × `patch`, of which `merge` × `merge` make one token.
    /// `None` where a side is not whole tokens, or as [`Self::new`].
    #[must_use]
    pub fn of_pixels(size: Size, patch: u32, merge: u32) -> Option<Self> {
        let whole = patch > 0 && size.height.is_multiple_of(patch) && size.width.is_multiple_of(patch);
        if whole { Self::new(size.height / patch, size.width / patch, merge) } else { None }
    }

    /// Rows of patches.
    #[must_use]
    pub fn rows(self) -> u32 {
        self.rows
    }

    /// Columns of patches.
    #[must_use]
    pub fn columns(self) -> u32 {
        self.columns
    }

    /// Patches along a side of a token.
    #[must_use]
    pub fn merge(self) -> u32 {
        self.merge
    }

    /// Patches.
    #[must_use]
    pub fn patches(self) -> u32 {
        self.rows * self.columns
    }

    /// Rows of tokens.
    #[must_use]
    pub fn token_rows(self) -> u32 {
        self.rows / self.merge
    }

    /// Columns of tokens.
    #[must_use]
    pub fn token_columns(self) -> u32 {
        self.columns / self.merge
    }

    /// Tokens that the picture takes in a prompt.
    #[must_use]
    pub fn tokens(self) -> u32 {
        self.token_rows() * self.token_columns()
    }

    /// Row and column of each patch in the order in which patches stand everywhere: token by token, row by row, and
    /// inside a token row by row.
    pub fn places(self) -> impl Iterator<Item = (u32, u32)> {
        let merge = self.merge;
        let token = move |row: u32, column: u32| {
            (0..merge).flat_map(move |r| (0..merge).map(move |c| (row * merge + r, column * merge + c)))
        };
        let columns = self.token_columns();
        (0..self.token_rows()).flat_map(move |row| (0..columns).flat_map(move |column| token(row, column)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_stand_token_by_token() {
        let grid = Grid::new(2, 4, 2).expect("whole tokens");
        let places: Vec<_> = grid.places().collect();
        assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]);
        assert_eq!((grid.patches(), grid.tokens(), grid.token_rows(), grid.token_columns()), (8, 2, 1, 2));
    }

    #[test]
    fn what_is_no_grid() {
        for (rows, columns, merge) in
            [(0, 2, 2), (2, 0, 2), (3, 2, 2), (2, 3, 2), (2, 2, 0), (512, 258, 2), (1 << 31, 4, 2)]
        {
            assert_eq!(Grid::new(rows, columns, merge), None, "{rows} {columns} {merge}");
        }
        assert!(Grid::new(256, 256, 2).is_some());
    }
}
