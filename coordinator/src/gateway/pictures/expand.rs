//! Placeholders in a prompt: the template writes one for each picture, the model reads one for each of its tokens.

use protocol::picture::{PicturePlace, PictureSize};
use sharding::picture::Grid;

/// How many placeholders stand in a prompt.
pub(in crate::gateway) fn placeholders(ids: &[u32], token: u32) -> usize {
    ids.iter().filter(|id| **id == token).count()
}

/// Repeats each placeholder for every token of its picture, in order, and says where the pictures stand then.
///
/// # Panics
/// When there are more placeholders than pictures.
pub(super) fn expand(ids: &[u32], token: u32, pictures: &[(PictureSize, Grid)]) -> (Vec<u32>, Vec<PicturePlace>) {
    let more: usize = pictures.iter().map(|(_, grid)| grid.tokens() as usize).sum();
    let mut expanded = Vec::with_capacity(ids.len() + more);
    let mut places = Vec::with_capacity(pictures.len());
    for id in ids {
        if *id != token {
            expanded.push(*id);
            continue;
        }
        let (size, grid) = pictures[places.len()];
        let at = u32::try_from(expanded.len()).expect("a request's body is bounded");
        places.push(PicturePlace { at, size });
        expanded.extend(std::iter::repeat_n(token, grid.tokens() as usize));
    }
    (expanded, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_placeholder_becomes_its_pictures_tokens() {
        let picture = |height, width| {
            (PictureSize { height, width }, Grid::new(height / 14, width / 14, 2).expect("whole tokens"))
        };
        let (ids, places) = expand(&[1, 9, 2, 9], 9, &[picture(28, 56), picture(56, 84)]);
        assert_eq!(ids, [1, 9, 9, 2, 9, 9, 9, 9, 9, 9]);
        assert_eq!(places.iter().map(|p| p.at).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(places[1].size, PictureSize { height: 56, width: 84 });
        assert_eq!(expand(&[1, 2], 9, &[]), (vec![1, 2], vec![]));
        assert_eq!(placeholders(&[9, 1, 9], 9), 2);
    }
}
