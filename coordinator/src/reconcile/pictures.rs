//! Which pictures a deployment takes, from what is configured and what its model was made for.
//!
//! Not here: sizing a picture. Pure.

use protocol::PictureLimits;
use sharding::PixelSpec;
use sharding::planner::PICTURE_PATCHES_MAX;

use crate::config::DeploymentSeed;

/// Most pixels of a picture where nothing is configured and the model itself would take more, counted over the frames of a
/// patch: what the phone agent's own servers are started with.
const PIXELS_DEFAULT_MAX: u32 = 5_000_000;

/// The limits that hold.
///
/// # Errors
/// One line: a configured limit that leaves no room for a picture, or for more than a plan counts.
pub(super) fn limits(seed: &DeploymentSeed, pixels: &PixelSpec) -> Result<PictureLimits, String> {
    let asked = seed.picture_pixels_max;
    let token = pixels.temporal_patch_size * pixels.factor().pow(2);
    let least = pixels.min_pixels.max(token);
    let most = PICTURE_PATCHES_MAX.saturating_mul(pixels.temporal_patch_size * pixels.patch_size.pow(2));
    let pixels_max = asked.unwrap_or_else(|| pixels.max_pixels.min(PIXELS_DEFAULT_MAX));
    if !(least..=most).contains(&pixels_max) {
        return Err(format!("pictures of at most {pixels_max} pixels, expected {least} to {most} for this model"));
    }
    Ok(PictureLimits { pictures_max: seed.pictures_max, pixels_max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::seed::tests::seed;

    fn of(own: u32, asked: Option<u32>) -> Result<u32, String> {
        let pixels = PixelSpec { max_pixels: own, ..PixelSpec::from_preprocessor_json("{}").expect("defaults") };
        let seed = DeploymentSeed { picture_pixels_max: asked, pictures_max: 3, ..seed() };
        limits(&seed, &pixels).map(|l| {
            assert_eq!(l.pictures_max, 3);
            l.pixels_max
        })
    }

    #[test]
    fn the_models_own_limit_holds_up_to_the_phone_agents() {
        assert_eq!(of(172_480, None), Ok(172_480));
        assert_eq!(of(9_633_792, None), Ok(5_000_000));
    }

    #[test]
    fn a_configured_limit_holds_where_a_picture_fits_it() {
        assert_eq!(of(172_480, Some(1_000_000)), Ok(1_000_000));
        assert_eq!(of(172_480, Some(12_544)), Ok(12_544));
        for asked in [12_543, 5_005_057] {
            let error = of(172_480, Some(asked)).expect_err("no room");
            assert!(error.contains(&asked.to_string()) && error.contains("expected 12544 to 5005056"), "{error}");
        }
    }
}
