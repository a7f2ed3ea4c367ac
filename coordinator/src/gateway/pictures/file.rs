//! From the bytes of a PNG, JPEG or WebP file to 8-bit RGB as the reference's loader sees it: upright by its EXIF
//! orientation, transparency on white, 16-bit levels cut to their high byte, palettes and greys spread out; of a moving
//! picture the first frame.
//!
//! Not here: which size the model wants. Invariant: no pixel buffer is made before the header says that it is within
//! [`PIXELS_MAX`].

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use sharding::picture::{Rgb, Size};

use super::{PictureFault, jpeg};

/// Most pixels of a file, before it is sized.
pub(super) const PIXELS_MAX: u64 = 1 << 25;
/// Most memory for what a file says beside its pixels (a compressed colour profile, texts), and for a row of pixels, bytes.
const HEADER_BYTES_MAX: u64 = 64 << 20;
/// Most memory of a decoder with what it gives back, bytes.
const DECODER_BYTES_MAX: u64 = PIXELS_MAX * 16;

/// A file whose header has been read.
pub(super) struct PictureFile<'a> {
    decoder: Box<dyn ImageDecoder + 'a>,
    format: &'static str,
    orientation: Orientation,
    size: Size,
}

impl<'a> PictureFile<'a> {
    /// Reads the header. The format is told by the first bytes, not by what the client calls it.
    ///
    /// # Errors
    /// [`PictureFault`].
    pub(super) fn open(file: &'a [u8]) -> Result<Self, PictureFault> {
        let kind = image::guess_format(file).map_err(|_| PictureFault::Format)?;
        let format = match kind {
            ImageFormat::Png => "PNG",
            ImageFormat::Jpeg => "JPEG",
            ImageFormat::WebP => "WebP",
            _ => return Err(PictureFault::Format),
        };
        let mut reader = ImageReader::with_format(Cursor::new(file), kind);
        reader.limits(limits(HEADER_BYTES_MAX));
        let mut decoder = reader.into_decoder().map_err(|e| broken(format, &e))?;
        let (width, height) = decoder.dimensions();
        let stored = Size { height, width };
        if stored.area() > PIXELS_MAX {
            return Err(PictureFault::TooLarge { found: stored, max: PIXELS_MAX });
        }
        decoder.set_limits(limits(DECODER_BYTES_MAX)).map_err(|e| broken(format, &e))?;
        if kind == ImageFormat::Jpeg && !jpeg::is_whole(file) {
            return Err(PictureFault::Broken { format, reason: "it ends before its end marker".to_owned() });
        }
        // A picture whose orientation cannot be read is upright.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let size = if turns(orientation) { Size { height: width, width: height } } else { stored };
        Ok(Self { decoder: Box::new(decoder), format, orientation, size })
    }

    /// Its size, upright.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// Its levels.
    ///
    /// # Errors
    /// [`PictureFault::Broken`].
    pub(super) fn decode(self) -> Result<Rgb, PictureFault> {
        let mut picture = DynamicImage::from_decoder(self.decoder).map_err(|e| broken(self.format, &e))?;
        picture.apply_orientation(self.orientation);
        Ok(rgb(picture))
    }
}

fn limits(bytes_max: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes_max);
    limits
}

fn broken(format: &'static str, error: &ImageError) -> PictureFault {
    match error {
        ImageError::Limits(_) => PictureFault::Memory { max: DECODER_BYTES_MAX },
        _ => PictureFault::Broken { format, reason: error.to_string().replace('\n', " ") },
    }
}

/// Whether rows become columns.
fn turns(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

fn rgb(picture: DynamicImage) -> Rgb {
    let size = Size { height: picture.height(), width: picture.width() };
    let levels = match picture.color() {
        ColorType::Rgb8 => picture.into_rgb8().into_raw(),
        ColorType::L8 => picture.into_luma8().into_raw().into_iter().flat_map(|l| [l; 3]).collect(),
        ColorType::L16 => picture.into_luma16().into_raw().into_iter().flat_map(|l| [high(l); 3]).collect(),
        ColorType::Rgb16 => picture.into_rgb16().into_raw().into_iter().map(high).collect(),
        ColorType::La16 | ColorType::Rgba16 => {
            let rgba = picture.into_rgba16().into_raw();
            let (pixels, _) = rgba.as_chunks::<4>();
            pixels.iter().flat_map(|p| on_white(p.map(high))).collect()
        }
        _ => {
            let rgba = picture.into_rgba8().into_raw();
            let (pixels, _) = rgba.as_chunks::<4>();
            pixels.iter().flat_map(|p| on_white(*p)).collect()
        }
    };
    Rgb::new(size, levels)
}

fn high(level: u16) -> u8 {
    level.to_be_bytes()[0]
}

/// One pixel over white, in the fixed point of Pillow's `alpha_composite`: `(c·a + 255·(255 − a)) / 255`, where the
/// division is `(x + (x >> 8)) >> 8` with seven guard bits.
fn on_white([r, g, b, alpha]: [u8; 4]) -> [u8; 3] {
    let over = |level: u8| {
        let (level, alpha) = (u32::from(level), u32::from(alpha));
        let x = (level * alpha + 255 * (255 - alpha)) * 128 + (128 << 7);
        u8::try_from(((x >> 8) + x) >> 8 >> 7).expect("a weighted mean of two bytes")
    };
    [over(r), over(g), over(b)]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use base64::Engine as _;
    use serde_json::Value;

    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pictures");
        std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn decode(file: &[u8]) -> Result<Rgb, PictureFault> {
        let opened = PictureFile::open(file)?;
        let size = opened.size();
        let levels = opened.decode()?;
        assert_eq!(levels.size(), size, "the header told another size");
        Ok(levels)
    }

    #[test]
    fn levels_are_those_of_pillow() {
        let levels: Value = serde_json::from_slice(&fixture("levels.json")).unwrap();
        for (name, expected) in levels.as_object().unwrap() {
            let found = decode(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let Size { height, width } = found.size();
            assert_eq!(serde_json::json!([height, width]), expected["size"], "{name}");
            let expected = base64::engine::general_purpose::STANDARD.decode(expected["rgb"].as_str().unwrap()).unwrap();
            let off = found.pixels().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            // Decoders of lossy formats may round otherwise.
            let bound = if name.ends_with(".jpg") || name == "lossy.webp" { 3 } else { 0 };
            assert!(off <= bound, "{name}: off by {off} levels");
        }
        assert_eq!(levels.as_object().unwrap().len(), 27);
    }

    #[test]
    fn transparency_is_on_white() {
        for alpha in 0..=255 {
            for level in 0..=255 {
                let (exact, found) = (
                    f64::from(level) * f64::from(alpha) + 255.0 * (255.0 - f64::from(alpha)),
                    on_white([level, 0, 0, alpha])[0],
                );
                assert!((f64::from(found) - exact / 255.0).abs() <= 0.51, "{level} at {alpha}: {found}");
            }
        }
    }

    #[test]
    fn a_file_that_is_cut_off_is_broken() {
        for name in ["rgb.png", "gray_16.png", "rgb.jpg", "progressive.jpg", "rgba.webp", "lossy.webp"] {
            let file = fixture(name);
            for cut in [file.len() / 2, file.len() * 9 / 10] {
                let error = decode(&file[..cut]).expect_err(name);
                assert!(matches!(error, PictureFault::Broken { .. }), "{name}: {error}");
                assert_eq!(error.to_string().lines().count(), 1);
            }
            assert!(decode(&file[..20]).is_err());
        }
    }

    #[test]
    fn other_files_are_none() {
        for file in [&b"GIF89a______"[..], b"BM______________", b"%PDF-1.7", b"", b"\x89PNG"] {
            assert_eq!(decode(file).unwrap_err(), PictureFault::Format);
        }
    }

    /// A PNG whose header says more than there is.
    fn png_of(width: u32, height: u32) -> Vec<u8> {
        let mut file = fixture("rgb.png");
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32fast::hash(&file[12..29]);
        file[29..33].copy_from_slice(&crc.to_be_bytes());
        file
    }

    #[test]
    fn a_header_is_not_believed_beyond_the_bound() {
        for (width, height) in [(1 << 13, (1 << 12) + 1), (1 << 20, 1 << 20)] {
            let error = decode(&png_of(width, height)).unwrap_err();
            let found = Size { height, width };
            assert_eq!(error, PictureFault::TooLarge { found, max: PIXELS_MAX });
        }
        let wide = png_of(i32::MAX as u32, 1);
        assert_eq!(decode(&wide).unwrap_err(), PictureFault::Memory { max: DECODER_BYTES_MAX });
        let strip = PictureFile::open(&png_of(100_000, 1)).map(|f| f.size()).ok();
        assert_eq!(strip, Some(Size { height: 1, width: 100_000 }));
        assert!(decode(&png_of(0, 5)).is_err());
    }
}
