//! Sizes, levels, patches and positions of pictures against Hugging Face's, all exact but the last rounding of a value.

mod support;

use sharding::PixelSpec;
use sharding::picture::{Grid, PatchError, PromptPositions, ResizeError, Rgb, Size, patches, smart_resize};
use support::golden::{Golden, max_abs};
use support::pictures::{Pictures, pixel_spec};
use support::{checkpoint, spec_of};

const MODEL: &str = "tiny-glm4v";

#[test]
fn every_size_of_the_reference() {
    let pictures = Pictures::load();
    let spec = pixel_spec(MODEL);
    let rows = pictures.json["smart_resize"].as_array().expect("a table");
    assert_eq!(rows.len(), 27);
    for row in rows {
        let sides = |key: &str| support::golden::ids(&row[key]);
        let size = |key: &str| Size { height: sides(key)[0], width: sides(key)[1] };
        let found = smart_resize(size("hw"), &spec).expect("a size");
        assert_eq!(found, size("out_hw"), "{row}");
        let grid = Grid::new(found.height / 14, found.width / 14, 2).expect("whole tokens");
        assert_eq!([1, grid.rows(), grid.columns()].as_slice(), sides("grid_thw"), "{row}");
        assert_eq!(Some(u64::from(grid.tokens())), row["tokens"].as_u64(), "{row}");
    }
}

#[test]
fn sides_below_a_token_grow_and_strips_are_refused() {
    let spec = pixel_spec(MODEL);
    let of = |height, width| smart_resize(Size { height, width }, &spec);
    assert_eq!(of(1, 1), Ok(Size { height: 84, width: 84 }));
    let strip = Size { height: 1, width: 100_000 };
    assert_eq!(of(1, 100_000), Err(ResizeError::Aspect { found: strip }));
    assert!(matches!(of(0, 5), Err(ResizeError::Empty { .. })));
}

#[test]
fn every_resampled_level() {
    let pictures = Pictures::load();
    let mut compared = 0;
    for file in pictures.files() {
        for (from, to) in [("rgb_u8", "resized_u8"), ("rgb_u8_white", "resized_u8_white")] {
            let Some(expected) = pictures.levels(&file, to) else { continue };
            let found = pictures.levels(&file, from).expect("decoded").resized(expected.size());
            assert!(found == expected, "{file}: other levels");
            compared += 1;
        }
    }
    assert_eq!(compared, 6);
}

#[test]
fn every_value_of_every_patch() {
    let pictures = Pictures::load();
    let (found, grid) = patches(&pictures.decoded("img_a.png"), &pixel_spec(MODEL)).expect("whole tokens");
    assert_eq!((grid.rows(), grid.columns(), grid.tokens()), (6, 10, 15));
    let expected = pictures.pixel_values();
    assert!(max_abs(&found, &expected) <= 2e-6);
    assert!(found.iter().map(|x| x.to_bits()).eq(expected.iter().map(|x| x.to_bits())), "other bits");
}

#[test]
fn a_picture_that_is_not_whole_tokens_has_no_patches() {
    let spec = pixel_spec(MODEL);
    for (height, width) in [(28, 27), (14, 28), (42, 28), (0, 28)] {
        let found = Size { height, width };
        let picture = Rgb::new(found, vec![0; (height * width * 3) as usize]);
        assert_eq!(patches(&picture, &spec), Err(PatchError { found, factor: 28 }));
    }
}

#[test]
fn positions_on_every_axis() {
    let golden = Golden::load(MODEL);
    let token = spec_of(checkpoint(MODEL).join("config.json")).vision.expect("it sees").image_token_id;
    let mut pictures = 0;
    for case in golden.cases() {
        let grids: Vec<Grid> = case.grids.iter().map(|(r, c)| Grid::new(*r, *c, 2).expect("whole tokens")).collect();
        let positions =
            PromptPositions::new(&case.prompt, token, &grids).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let (expected, tokens) = golden.positions(&case.name);
        assert_eq!((tokens, positions.tokens() as usize), (case.prompt.len(), tokens));
        for index in 0..positions.tokens() {
            let expected = [0, 1, 2].map(|axis| expected[axis * tokens + index as usize]);
            assert_eq!(positions.at(index), expected, "{} token {index}", case.name);
        }
        assert_eq!(positions.rope_delta(), case.rope_delta, "{}", case.name);
        for generated in [0, 7] {
            let index = positions.tokens() + generated;
            let position = u32::try_from(i64::from(index) + case.rope_delta).expect("positive");
            assert_eq!(positions.at(index), [position; 3], "{}", case.name);
        }
        pictures += grids.len();
    }
    assert_eq!(pictures, 6, "a case without its pictures");
}

#[test]
fn a_processor_says_what_it_differs_in() {
    let vision = spec_of(checkpoint(MODEL).join("config.json")).vision.expect("it sees");
    let text = std::fs::read_to_string(checkpoint(MODEL).join("preprocessor_config.json")).expect("the file");
    let sound: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let spec = PixelSpec::from_preprocessor_json(&text).expect("sound");
    assert_eq!((spec.min_pixels, spec.max_pixels, spec.factor(), spec.patch_elements()), (12_544, 9_633_792, 28, 1176));
    let plain = PixelSpec::from_preprocessor_json("{}").expect("all of it has a default");
    assert_eq!(plain, PixelSpec { max_pixels: 11_760_000, ..spec });
    let cases: &[(&str, &str, &[&str])] = &[
        ("patch_size", "0", &["patch_size", "1..=64", "found 0"]),
        ("patch_size", "16", &["patch_size", "vision_config.patch_size", "(14)", "found 16"]),
        ("merge_size", "4", &["merge_size", "spatial_merge_size", "(2)", "found 4"]),
        ("temporal_patch_size", "1", &["temporal_patch_size", "(2)", "found 1"]),
        ("image_mean", "[0.5, 0.5]", &["image_mean", "three numbers", "[0.5,0.5]"]),
        ("image_std", "[0.5, 0.5, 0.0]", &["image_std", "three numbers"]),
        ("size", r#"{"shortest_edge": 100, "longest_edge": 50}"#, &["size.longest_edge", "at least", "found 50"]),
        ("size", r#"{"shortest_edge": -1}"#, &["size.shortest_edge", "found -1"]),
        ("rescale_factor", "0.5", &["rescale_factor", "1/255", "found 0.5"]),
        ("resample", "2", &["resample", "bicubic", "found 2"]),
        ("do_normalize", "false", &["do_normalize", "true", "found false"]),
    ];
    for (key, value, words) in cases {
        let mut broken = sound.clone();
        broken[key] = serde_json::from_str(value).expect("JSON");
        let read = PixelSpec::from_preprocessor_json(&broken.to_string());
        let error = read.and_then(|spec| spec.check(&vision)).expect_err(key).to_string();
        assert!(error.starts_with("preprocessor_config.json: "), "{error}");
        assert!(words.iter().all(|w| error.contains(w)) && error.lines().count() == 1, "{key} {value}: {error}");
    }
    let error = PixelSpec::from_preprocessor_json("[1]").expect_err("no object").to_string();
    assert!(error.contains("preprocessor_config.json: expected a JSON object"), "{error}");
}
