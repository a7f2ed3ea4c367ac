//! The reference's pictures: decoded levels, resampled levels, the tower's input.

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sharding::PixelSpec;
use sharding::checkpoint::read_pixel_spec;
use sharding::picture::{Grid, Rgb, Size, patches, smart_resize};

use super::{checkpoint, fixtures, spec_of};

/// What Hugging Face made of each picture.
pub(crate) struct Pictures {
    pub(crate) json: Value,
    tensors: Vec<u8>,
}

impl Pictures {
    pub(crate) fn load() -> Self {
        let dir = fixtures().join("goldens/images");
        let json = std::fs::read(dir.join("golden.json")).expect("golden.json");
        let tensors = std::fs::read(dir.join("tensors.safetensors")).expect("tensors.safetensors");
        Self { json: serde_json::from_slice(&json).expect("JSON"), tensors }
    }

    /// File names of the pictures.
    pub(crate) fn files(&self) -> Vec<String> {
        self.json["images"].as_object().expect("images").keys().cloned().collect()
    }

    /// The levels under `{file}/{which}`, where there are any.
    pub(crate) fn levels(&self, file: &str, which: &str) -> Option<Rgb> {
        let all = SafeTensors::deserialize(&self.tensors).expect("safetensors");
        let tensor = all.tensor(&format!("{file}/{which}")).ok()?;
        assert_eq!((tensor.dtype(), tensor.shape()[2]), (Dtype::U8, 3));
        let side = |i: usize| u32::try_from(tensor.shape()[i]).expect("small");
        Some(Rgb::new(Size { height: side(0), width: side(1) }, tensor.data().to_vec()))
    }

    /// The picture as it was decoded.
    pub(crate) fn decoded(&self, file: &str) -> Rgb {
        self.levels(file, "rgb_u8").expect("rgb_u8")
    }

    /// The reference's input of the tower for the first detailed case, `[patches, values]` flat.
    pub(crate) fn pixel_values(&self) -> Vec<f32> {
        let all = SafeTensors::deserialize(&self.tensors).expect("safetensors");
        let tensor = all.tensor("img1/pixel_values").expect("img1");
        let (words, _) = tensor.data().as_chunks::<4>();
        words.iter().map(|w| f32::from_le_bytes(*w)).collect()
    }
}

/// `preprocessor_config.json` beside a tiny model.
pub(crate) fn pixel_spec(model: &str) -> PixelSpec {
    let dir = checkpoint(model);
    let vision = spec_of(dir.join("config.json")).vision.expect("it sees");
    read_pixel_spec(&dir, &vision).expect("a processor of this tower")
}

/// From decoded levels to the tower's input.
pub(crate) fn prepared(picture: Rgb, spec: &PixelSpec) -> (Vec<f32>, Grid) {
    let size = smart_resize(picture.size(), spec).expect("a size");
    patches(&picture.resized(size), spec).expect("whole tokens")
}
