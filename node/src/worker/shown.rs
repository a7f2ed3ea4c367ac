//! Pictures for tests: the references' own and made-up ones, sized, with prompts that show them.

use protocol::picture::{PicturePlace, PictureSize};
use sharding::PixelSpec;
use sharding::picture::{Grid, Rgb, Size, smart_resize};

use super::levels::Levels;
use super::real_models::{RealModel, workspace};
use crate::engine::{NewPicture, PictureDigest};

/// A picture in the size in which a model sees it.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) size: PictureSize,
    pub(super) grid: Grid,
    pub(super) rgb: Vec<u8>,
}

impl Shown {
    fn of(rgb: Rgb, pixels: &PixelSpec) -> Self {
        let Size { height, width } = rgb.size();
        let grid = Grid::of_pixels(rgb.size(), pixels.patch_size, pixels.merge_size).expect("whole tokens");
        Self { size: PictureSize { height, width }, grid, rgb: rgb.into_pixels() }
    }

    /// A picture of the fixtures.
    pub(super) fn file(model: RealModel, file: &str) -> Self {
        let path = workspace("tests/fixtures/autoglm-nano-goldens").join(file);
        let picture = image::open(path).expect("a picture").into_rgb8();
        let size = Size { height: picture.height(), width: picture.width() };
        let pixels = model.pixels().expect("it sees");
        let to = smart_resize(size, &pixels).expect("a size");
        Self::of(Rgb::new(size, picture.into_raw()).resized(to), &pixels)
    }

    /// A made-up picture of `rows` × `columns` tokens; each `seed` shows another.
    pub(super) fn made_up(model: RealModel, (rows, columns): (u32, u32), seed: u64) -> Self {
        let pixels = model.pixels().expect("it sees");
        let size = Size { height: rows * pixels.factor(), width: columns * pixels.factor() };
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut level = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        Self::of(Rgb::new(size, (0..size.area() * 3).map(|_| level()).collect()), &pixels)
    }

    /// As it arrives with a request whose prompt shows it from token `at` on.
    pub(super) fn at(&self, at: u32) -> NewPicture<Levels> {
        NewPicture {
            digest: PictureDigest::of(self.size, &self.rgb),
            place: PicturePlace { at, size: self.size },
            tokens: self.grid.tokens(),
            patches: self.grid.patches(),
            levels: Levels { size: self.size, rgb: self.rgb.clone(), room: None },
        }
    }
}

/// A prompt with pictures in it: before each picture and at the end stands a run of text, one of `texts`.
pub(super) fn prompt(model: RealModel, texts: &[Vec<u32>], shown: &[Shown]) -> (Vec<u32>, Vec<u32>) {
    let token = model.spec().vision.expect("it sees").image_token_id;
    let (mut ids, mut places) = (Vec::new(), Vec::new());
    for (i, text) in texts.iter().enumerate() {
        ids.extend_from_slice(text);
        if let Some(picture) = shown.get(i) {
            places.push(u32::try_from(ids.len()).expect("short"));
            ids.extend(std::iter::repeat_n(token, picture.grid.tokens() as usize));
        }
    }
    (ids, places)
}
