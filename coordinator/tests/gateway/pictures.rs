//! Chats with pictures: what reaches the replica, against Hugging Face's results, and what is refused and how.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coordinator::GatewayLimits;
use coordinator::gateway::dispatch::DispatchError;
use protocol::picture::PictureSize;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::files::{fixtures, read_json};
use crate::harness::{Harness, SEEING_CONTEXT};
use crate::scripted::{Step, length, tokens};

/// `<|image|>` of the project's own model.
const PICTURE: u32 = 4090;

async fn seeing(steps: Vec<Step>) -> Harness {
    Harness::seeing(vec![Ok(steps)], 1, GatewayLimits::default()).await
}

/// A `data:` URL of a file of the fixtures.
pub(crate) fn data_url(path: &str) -> String {
    let file = std::fs::read(fixtures().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    format!("data:image/png;base64,{}", STANDARD.encode(file))
}

pub(crate) fn part(url: impl Into<Value>) -> Value {
    json!({"type": "image_url", "image_url": {"url": url.into(), "detail": "low"}})
}

/// A chat of one message of these parts.
pub(crate) fn chat(parts: &[Value]) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 1})
}

/// A picture of so many pixels.
fn small() -> String {
    data_url("pictures/rgb.png")
}

#[tokio::test]
async fn prompts_are_those_of_the_reference() {
    let mut h = seeing(vec![length()]).await;
    let goldens = read_json(&fixtures().join("autoglm-nano-goldens/goldens_plain.json"));
    let mut shown = 0;
    for golden in goldens["conversations"].as_array().unwrap() {
        // Screens are large, and these three are of every kind: two shapes, and one with a conversation before it.
        let kinds = ["image_00_launch", "image_06_swipe", "image_07_launch_finish"];
        if golden["image"].is_string() && !kinds.iter().any(|kind| golden["id"] == *kind) {
            continue;
        }
        let mut messages = golden["messages"].clone();
        for content in messages.as_array_mut().unwrap().iter_mut().filter_map(|m| m["content"].as_array_mut()) {
            for url in content.iter_mut().filter_map(|part| part.get_mut("image_url")?.get_mut("url")) {
                *url = data_url(&format!("autoglm-nano-goldens/{}", url.as_str().unwrap())).into();
            }
        }
        let told = h.chat(&json!({"model": "tiny", "messages": messages, "max_tokens": 1})).await;
        assert_eq!(told.status, 200, "{}: {}", golden["id"], told.body);
        let (_, request) = h.seen.requests.recv().await.unwrap();
        assert_eq!(json!(request.prompt_ids), golden["prompt_ids"], "{}", golden["id"]);
        let Some(grid) = golden["image_grid_thw"].as_array() else {
            assert_eq!(request.pictures, []);
            continue;
        };
        let side = |i: usize| u32::try_from(grid[i].as_u64().unwrap()).unwrap() * 14;
        let place = request.pictures[0];
        assert_eq!(place.size, PictureSize { height: side(1), width: side(2) }, "{}", golden["id"]);
        let first = request.prompt_ids.iter().position(|id| *id == PICTURE);
        assert_eq!(Some(place.at as usize), first);
        let levels = h.seen.pictures.recv().await.unwrap();
        assert_eq!(levels.iter().map(|p| p.rgb.len()).collect::<Vec<_>>(), [place.size.rgb_bytes()]);
        assert_eq!(told.json()["usage"]["prompt_tokens"], request.prompt_ids.len());
        shown += 1;
    }
    assert_eq!(shown, 3);
}

#[tokio::test]
async fn levels_are_those_of_the_reference() {
    let mut h = seeing(vec![length()]).await;
    let bytes = std::fs::read(fixtures().join("goldens/images/tensors.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names = ["img_a.png", "img_b.jpg", "img_c.png", "img_d.png", "img_e_rgba.png", "img_f_alpha.png"];
    let parts: Vec<Value> = names.iter().map(|n| part(data_url(&format!("goldens/images/{n}")))).collect();
    let told = h.chat(&chat(&parts)).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let (_, request) = h.seen.requests.recv().await.unwrap();
    let levels = h.seen.pictures.recv().await.unwrap();
    assert_eq!((levels.len(), request.pictures.len()), (names.len(), names.len()));
    for ((name, found), place) in names.iter().zip(levels).zip(request.pictures) {
        let kinds = ["resized_u8_white", "resized_u8", "rgb_u8_white", "rgb_u8"];
        let expected = kinds.iter().find_map(|kind| tensors.tensor(&format!("{name}/{kind}")).ok()).unwrap();
        let size = [place.size.height as usize, place.size.width as usize, 3];
        assert_eq!(expected.shape(), size, "{name}");
        let off = found.rgb.iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let bound = if name.ends_with(".jpg") { 3 } else { 0 };
        assert!(off <= bound, "{name}: off by {off} levels");
    }
}

#[tokio::test]
async fn pictures_of_several_messages_stand_in_their_order() {
    let mut h = seeing(vec![length()]).await;
    let (a, b) = (data_url("goldens/images/img_a.png"), data_url("goldens/images/img_c.png"));
    let messages = json!([
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image", "image": a}]},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": [{"type": "image_url", "image_url": b}, {"type": "text", "text": "z"}, part(small())]},
    ]);
    let told = h.chat(&json!({"model": "tiny", "messages": messages, "max_tokens": 1})).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let (_, request) = h.seen.requests.recv().await.unwrap();
    let sizes: Vec<(u32, u32)> = request.pictures.iter().map(|p| (p.size.height, p.size.width)).collect();
    assert_eq!(sizes, [(84, 140), (308, 56), (84, 112)]);
    for (place, count) in request.pictures.iter().zip([15, 22, 12]) {
        let run = request.prompt_ids[place.at as usize..].iter().take_while(|id| **id == PICTURE).count();
        assert_eq!(run, count);
    }
}

#[tokio::test]
async fn another_replica_is_given_the_same_pictures() {
    let unreachable = Err(DispatchError::Unreachable { reason: "gone".to_owned() });
    let lost = Step::Break(DispatchError::Lost { reason: "gone".to_owned() });
    let scripts = vec![unreachable, Ok(vec![tokens(&[405]), lost]), Ok(vec![tokens(&[408]), length()])];
    let mut h = Harness::seeing(scripts, 3, GatewayLimits::default()).await;
    let mut body = chat(&[part(small())]);
    body["max_tokens"] = 2.into();
    let told = h.chat(&body).await;
    assert_eq!((told.status.as_u16(), &told.json()["usage"]["completion_tokens"]), (200, &json!(2)), "{}", told.body);
    let (first, levels) = (h.seen.requests.recv().await.unwrap().1, h.seen.pictures.recv().await.unwrap());
    for resume in [vec![], vec![405]] {
        let request = h.seen.requests.recv().await.unwrap().1;
        assert_eq!((&request.pictures, &request.choices[0].resume), (&first.pictures, &resume));
        assert_eq!(h.seen.pictures.recv().await.unwrap(), levels);
    }
}

/// Status, code, parameter and message of a refusal.
async fn refused(h: &Harness, body: &Value) -> (u16, String, Value, String) {
    let told = h.chat(body).await;
    let error = told.error();
    let text = |key: &str| error[key].as_str().unwrap().to_owned();
    (told.status.as_u16(), text("code"), error["param"].clone(), text("message"))
}

/// A PNG of so many pixels by its header, with nothing behind it.
fn header_of(width: u32, height: u32) -> String {
    let mut file = std::fs::read(fixtures().join("pictures/rgb.png")).unwrap();
    file[16..20].copy_from_slice(&width.to_be_bytes());
    file[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32fast::hash(&file[12..29]);
    file[29..33].copy_from_slice(&crc.to_be_bytes());
    format!("data:image/png;base64,{}", STANDARD.encode(file))
}

#[tokio::test]
async fn a_picture_that_is_none_is_refused_by_its_place() {
    let h = seeing(vec![length()]).await;
    let cut = |url: String, part: usize| {
        let head = url.find(',').unwrap() + 1;
        let length = (url.len() - head) * part / 10 / 4 * 4;
        url[..head + length].to_owned()
    };
    let cases = [
        (header_of(20_000, 20_000), "image_too_large", "20000×20000 pixels, at most 33554432"),
        (header_of(100_000, 1), "invalid_image_size", "100000×1 pixels is longer than 200 times"),
        (header_of(1, 100_000), "invalid_image_size", "1×100000 pixels"),
        (header_of(0, 7), "image_parse_error", "PNG"),
        (cut(data_url("goldens/images/img_c.png"), 6), "image_parse_error", "the PNG file cannot be decoded"),
        (cut(data_url("goldens/images/img_b.jpg"), 6), "image_parse_error", "the JPEG file cannot be decoded"),
        (cut(data_url("pictures/lossy.webp"), 6), "image_parse_error", "the WebP file cannot be decoded"),
        (
            format!("data:image/png;base64,{}", STANDARD.encode("GIF89a")),
            "unsupported_image_format",
            "PNG, JPEG or WebP",
        ),
        ("data:image/png;base64,".to_owned(), "empty_image_file", "empty"),
        ("data:image/png;base64,§".to_owned(), "invalid_base64_image", "base64"),
        ("data:image/png,abc".to_owned(), "invalid_image_url", "data:image/png,abc"),
        ("http://localhost/a.png".to_owned(), "image_url_not_allowed", "off here"),
        ("file:///etc/passwd".to_owned(), "invalid_image_url", "file:///etc/passwd"),
    ];
    for (url, code, message) in cases {
        let text = json!({"type": "text", "text": "x"});
        let body = chat(&[text, part(small()), part(url.as_str())]);
        let (status, found, param, told) = refused(&h, &body).await;
        assert_eq!((status, found.as_str()), (400, code), "{told}");
        assert_eq!(param, "messages[0].content[2].image_url", "{told}");
        assert!(told.contains(message), "{told}");
    }
    let cases = [
        (json!({"type": "image_url"}), "missing_required_parameter", "messages[0].content[0].image_url"),
        (
            json!({"type": "image_url", "image_url": {}}),
            "missing_required_parameter",
            "messages[0].content[0].image_url.url",
        ),
        (json!({"type": "image_url", "image_url": {"url": 5}}), "invalid_type", "messages[0].content[0].image_url.url"),
        (json!({"type": "image_url", "image_url": 5}), "invalid_type", "messages[0].content[0].image_url"),
        (json!({"type": "video_url", "video_url": {}}), "unsupported_parameter", "messages[0].content[0].video_url"),
    ];
    for (part, code, param) in cases {
        let (status, found, at, told) = refused(&h, &chat(&[part])).await;
        assert_eq!((status, found.as_str(), at), (400, code, param.into()), "{told}");
    }
}

#[tokio::test]
async fn more_pictures_than_a_prompt_may_have_are_refused_before_they_are_read() {
    let mut h = seeing(vec![length()]).await;
    let ten = vec![part(small()); 10];
    assert_eq!(h.chat(&chat(&ten)).await.status, 200);
    assert_eq!(h.seen.pictures.recv().await.unwrap().len(), 10);
    // The eleventh is one too many, whatever the others are.
    let eleven = vec![part("data:image/png;base64,"); 11];
    let (status, code, param, message) = refused(&h, &chat(&eleven)).await;
    assert_eq!((status, code.as_str()), (400, "too_many_images"));
    assert_eq!(param, "messages[0].content[10].image_url");
    assert!(message.contains("11 pictures, at most 10"), "{message}");
}

#[tokio::test]
async fn placeholders_and_pictures_must_match() {
    let h = seeing(vec![length()]).await;
    let text = json!({"type": "text", "text": "see <|image|>"});
    for (parts, counts) in [
        (vec![text.clone()], "1 picture placeholders for 0 pictures"),
        (vec![part(small()), text], "2 picture placeholders for 1 pictures"),
    ] {
        let (status, code, param, message) = refused(&h, &chat(&parts)).await;
        assert_eq!((status, code.as_str(), param), (400, "image_placeholder_mismatch", "messages".into()));
        assert!(message.contains(counts), "{message}");
    }
    let told = h.post("/v1/completions", &json!({"model": "tiny", "prompt": [PICTURE], "max_tokens": 1})).await;
    let error = told.error();
    assert_eq!((told.status.as_u16(), error["code"].as_str()), (400, Some("image_placeholder_mismatch")));
    assert_eq!(error["param"], "prompt");
}

#[tokio::test]
async fn the_tokens_of_pictures_count_in_the_context() {
    let h = seeing(vec![length()]).await;
    // 105 tokens each by its header, which is all that there is of it: nothing is decoded for a refusal.
    let screen = header_of(1080, 2400);
    let (status, code, param, message) = refused(&h, &chat(&vec![part(screen.as_str()); 10])).await;
    assert_eq!((status, code.as_str(), param), (400, "context_length_exceeded", "prompt".into()));
    assert!(message.contains(&format!("{SEEING_CONTEXT} tokens; the prompt has 1076 tokens")), "{message}");
    let (_, code, _, _) = refused(&h, &chat(&vec![part(screen.as_str()); 9])).await;
    assert_eq!(code, "image_parse_error", "nine fit, and are looked at");
}

#[tokio::test]
async fn the_memory_of_pictures_is_bounded_and_given_back() {
    // One picture of 84 × 140 pixels and no more.
    let limits = GatewayLimits { picture_bytes_max: 40_000, ..GatewayLimits::default() };
    let h = Harness::seeing(vec![Ok(vec![tokens(&[65]), Step::Hang])], 1, limits).await;
    let screen = chat(&[part(data_url("goldens/images/img_a.png"))]);
    let mut streamed = screen.clone();
    streamed["stream"] = true.into();
    streamed["max_tokens"] = 9.into();
    let running = h.open("/v1/chat/completions", &streamed).await;
    let (status, code, _, message) = refused(&h, &screen).await;
    assert_eq!((status, code.as_str()), (429, "picture_memory_full"), "{message}");
    drop(running);
    let mut cancelled = h.seen.cancelled.clone();
    crate::client::soon(cancelled.wait_for(|n| *n == 1)).await.unwrap();
    let again = async {
        while h.open("/v1/chat/completions", &streamed).await.response.status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    crate::client::soon(again).await;
}

#[tokio::test]
async fn a_model_that_reads_text_alone_says_so() {
    let h = Harness::playing(vec![length()]).await;
    let (status, code, param, message) = refused(&h, &chat(&[part(small())])).await;
    assert_eq!((status, code.as_str()), (400, "unsupported_parameter"));
    assert_eq!(param, "messages[0].content[0].image_url");
    assert!(message.contains("reads text alone"), "{message}");
}
