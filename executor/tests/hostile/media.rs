//! Videos and pictures, with the real ffmpeg.

use crate::farm::{TestFarm, brief};
use pictor_pictures::{PictureError, Reader};
use pictor_tasks::body::{Body, Encode, Probe, Rehearsal};
use pictor_tasks::message::{Failure, FailureKind, FileRef, Outcome, Products};
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::time::{Duration, Instant};

/// A film of somebody else on the same worker, in a folder that is next to that of the task.
fn film(farm: &TestFarm) -> PathBuf {
    let film = farm.folder.path().join("secret.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=1"])
        .args(["-c:v", "libx264", "-pix_fmt", "yuv420p"])
        .arg(&film)
        .status();
    assert!(made.unwrap().success());
    film
}

async fn task(farm: &mut TestFarm, body: Body, file: &Path) -> Result<Products, Failure> {
    let path = file.to_str().unwrap().to_owned();
    let mut brief = brief(body, 1);
    brief.files = [(path.clone(), FileRef { path, digest: String::new(), size_bytes: 0 })].into();
    match farm.outcome(brief).await {
        Outcome::Succeeded(products) => Ok(products),
        Outcome::Failed(failure) => Err(failure),
        other => panic!("an end was expected: {other:?}"),
    }
}

fn probe(file: &Path) -> Body {
    Body::Probe(Probe {
        source: file.to_str().unwrap().into(),
        frame: Some("frame".into()),
        frames: None,
        tiles: None,
        rehearse: None::<Rehearsal>,
    })
}

/// Lists and descriptions of other files, which ffmpeg would follow. SECRET is the path of a film.
const LISTS: [(&str, &str); 12] = [
    ("HLS", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nSECRET\n#EXT-X-ENDLIST\n"),
    (
        "HLS with a key",
        "#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"file://SECRET\"\n#EXT-X-MAP:URI=\"file://SECRET\"\n#EXTINF:1,\n\
         file:SECRET\n#EXT-X-ENDLIST\n",
    ),
    (
        "DASH",
        "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" \
         mediaPresentationDuration=\"PT1S\"><Period><AdaptationSet mimeType=\"video/mp4\"><Representation id=\"0\">\
         <BaseURL>file:SECRET</BaseURL></Representation></AdaptationSet></Period></MPD>",
    ),
    ("concat", "file 'SECRET'\n"),
    ("ffconcat", "ffconcat version 1.0\nfile 'SECRET'\n"),
    ("lavfi", "movie=SECRET"),
    (
        "SVG",
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"64\" height=\"48\"><image href=\"file://SECRET\" \
         width=\"64\" height=\"48\"/></svg>",
    ),
    (
        "ASS",
        "[Script Info]\n[V4+ Styles]\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,,,0,0,0,,SECRET\n",
    ),
    ("SRT", "1\n00:00:00,000 --> 00:00:01,000\n<font face=\"SECRET\">SECRET</font>\n"),
    (
        "SDP",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ),
    ("a cue sheet", ";FFMETADATA1\ntitle=SECRET\n"),
    (
        "IMF",
        "<?xml version=\"1.0\"?><AssetMap xmlns=\"http://www.smpte-ra.org/schemas/429-9/2007/AM\"/>",
    ),
];

#[tokio::test]
async fn a_list_of_other_files_is_no_video_and_no_picture_whatever_its_name() {
    let mut farm = TestFarm::start();
    let secret = film(&farm);
    let folder = farm.folder.path().join("in");
    std::fs::create_dir(&folder).unwrap();
    for (what, text) in LISTS {
        let text = text.replace("SECRET", secret.to_str().unwrap());
        // A text that is none for the check: with a control character at its start, or far away.
        let late = format!("{text}\n{}\0", " ".repeat(5000));
        let marked = format!("{text}\u{1}");
        for (name, content) in
            [("clip.mp4", &text), ("clip.mkv", &late), ("clip.ts", &marked), ("picture.png", &text)]
        {
            let file = folder.join(name);
            std::fs::write(&file, content).unwrap();
            let found = task(&mut farm, probe(&file), &file).await;
            let said = match found {
                Err(failure) => {
                    assert_eq!(failure.kind, FailureKind::Invalid, "{what}, {name}: {failure:?}");
                    failure.message
                }
                // A picture is named in a note, as others of a sequence may be good.
                Ok(products) => {
                    let info =
                        std::fs::read_to_string(farm.artifact(&products.outputs[0])).unwrap();
                    assert!(info.contains("\"size\":null"), "{what}, {name}: {info}");
                    products.notes.join("\n")
                }
            };
            assert!(said.contains(name), "{what}, {name}: {said}");
            assert!(!said.contains("64x48"), "{what}, {name}: {said}");
        }
    }
}

#[tokio::test]
async fn names_that_mean_something_to_ffmpeg_are_names() {
    let mut farm = TestFarm::start();
    let secret = film(&farm);
    let folder = farm.folder.path().join("in");
    std::fs::create_dir(&folder).unwrap();
    for name in
        ["-i.mp4", "concat:a|b.mp4", "http:a.mp4", "pipe:0.mp4", "subfile,,start,0,end,9,,:a.mp4"]
    {
        let file = folder.join(name);
        std::fs::copy(&secret, &file).unwrap();
        let products = task(&mut farm, probe(&file), &file).await.unwrap();
        let info = std::fs::read_to_string(farm.artifact(&products.outputs[0])).unwrap();
        assert!(info.contains("\"width\":64") || info.contains("64x48"), "{name}: {info}");
    }
}

#[tokio::test]
async fn pictures_of_another_step_that_are_lists_are_not_followed() {
    let mut farm = TestFarm::start();
    let secret = film(&farm);
    let folder = farm.folder.path().join("in");
    std::fs::create_dir(&folder).unwrap();
    for (what, text) in LISTS {
        for extension in ["png", "exr", "tif", "svg"] {
            let file = folder.join(format!("picture.{extension}"));
            std::fs::write(&file, text.replace("SECRET", secret.to_str().unwrap())).unwrap();
            farm.inputs = Some(vec![farm.input(0, "frame=1", "image", &file)]);
            let encode = Encode {
                file: "film.mp4".into(),
                fps: Some(24.0),
                codec: None,
                quality: None,
                source: None,
                keep_audio: None,
                allow_gaps: false,
            };
            let mut brief = brief(Body::Encode(encode), 1);
            brief.has_inputs = true;
            let failure = farm.failure(brief).await;
            assert_eq!(failure.kind, FailureKind::BadOutput, "{what}, {extension}: {failure:?}");
        }
    }
}

/// Pictures of 100,000 x 100,000 pixels, or as many as their format has, in a few bytes.
#[expect(clippy::too_many_lines, reason = "a list of formats")]
fn enormous() -> Vec<(&'static str, Vec<u8>)> {
    let pixels = 100_000_u32;
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut bytes = u32::try_from(data.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend([kind.as_slice(), data].concat());
        bytes.extend(crc(&[kind.as_slice(), data].concat()).to_be_bytes());
        bytes
    };
    let head = |interlaced: u8| {
        let size = [pixels.to_be_bytes(), pixels.to_be_bytes()].concat();
        chunk(b"IHDR", &[&size[..], &[16, 6, 0, 0, interlaced]].concat())
    };
    let png = |interlaced, rest: &[Vec<u8>]| {
        let start = [b"\x89PNG\r\n\x1a\n".to_vec(), head(interlaced)].concat();
        [start, rest.concat(), chunk(b"IEND", b"")].concat()
    };
    let some = chunk(b"IDAT", b"\x78\x9c\x03\x00\x00\x00\x00\x01");
    // A profile of a gibibyte of zeros, in a mebibyte: a stored block would not do.
    let zeros = deflated_zeros(1 << 30);
    let profile = chunk(b"iCCP", &[b"a\0\0".as_slice(), &zeros].concat());
    let text = chunk(b"zTXt", &[b"a\0\0".as_slice(), &zeros].concat());
    let wide = u16::MAX.to_be_bytes();
    let mut jpeg = b"\xff\xd8\xff\xc0\x00\x11\x08".to_vec();
    jpeg.extend([wide, wide].concat());
    jpeg.extend(b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00\xff\xd9");
    let entry = |tag: u16, kind: u16, value: u32| {
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &1_u32.to_le_bytes(), &value.to_le_bytes()]
            .concat()
    };
    let mut tiff = b"II*\0\x08\0\0\0\x09\0".to_vec();
    for (tag, value) in [
        (256, pixels),
        (257, pixels),
        (258, 16),
        (259, 8),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, pixels),
        (279, 40),
    ] {
        tiff.extend(entry(tag, 4, value));
    }
    tiff.extend([0; 4]);
    // The largest WebP: 2^14 pixels, of which nothing is there.
    let webp = [
        b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f".as_slice(),
        &[0xff; 4],
        &[0x10, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let mut exr = b"\x76\x2f\x31\x01\x02\0\0\0".to_vec();
    let attribute = |name: &str, kind: &str, value: &[u8]| {
        let length = u32::try_from(value.len()).unwrap().to_le_bytes();
        [name.as_bytes(), b"\0", kind.as_bytes(), b"\0", &length, value].concat()
    };
    let channel =
        |name: &str| [name.as_bytes(), b"\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0"].concat();
    let window = [0, 0, pixels - 1, pixels - 1].map(u32::to_le_bytes).concat();
    let channels = [channel("B"), channel("G"), channel("R"), vec![0]].concat();
    exr.extend(attribute("channels", "chlist", &channels));
    exr.extend(attribute("compression", "compression", &[3]));
    exr.extend(attribute("dataWindow", "box2i", &window));
    exr.extend(attribute("displayWindow", "box2i", &window));
    exr.extend(attribute("lineOrder", "lineOrder", &[0]));
    exr.extend(attribute("pixelAspectRatio", "float", &1_f32.to_le_bytes()));
    exr.extend(attribute("screenWindowCenter", "v2f", &[0; 8]));
    exr.extend(attribute("screenWindowWidth", "float", &1_f32.to_le_bytes()));
    exr.push(0);
    let gif =
        [b"GIF89a".as_slice(), &[0xff; 4], b"\0\0\0,\0\0\0\0", &[0xff; 4], b"\0\x02\x01\x44\0;"]
            .concat();
    let bmp = |bits: u16| {
        let mut bmp = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        bmp.extend([pixels.to_le_bytes(), pixels.to_le_bytes()].concat());
        bmp.extend([1_u16.to_le_bytes(), bits.to_le_bytes()].concat());
        bmp.extend([0; 24]);
        bmp
    };
    vec![
        ("rows.png", png(0, std::slice::from_ref(&some))),
        ("interlaced.png", png(1, std::slice::from_ref(&some))),
        ("profile.png", png(0, &[profile, some.clone()])),
        ("text.png", png(0, &[text, some])),
        ("wide.jpg", jpeg),
        ("wide.tif", tiff),
        ("wide.webp", webp),
        ("wide.exr", exr),
        ("wide.gif", gif),
        ("wide.bmp", bmp(24)),
    ]
}

/// The checksum of a chunk of a PNG.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (0_u32.wrapping_sub(crc & 1)))
        })
    })
}

/// A zlib stream of zeros.
fn deflated_zeros(count: usize) -> Vec<u8> {
    let script = "import sys, zlib\nz = zlib.compressobj(9)\nfor _ in range(int(sys.argv[1]) >> 20):\n \
                  sys.stdout.buffer.write(z.compress(bytes(1 << 20)))\nsys.stdout.buffer.write(z.flush())";
    let count = count.to_string();
    let made = Command::new("python3").args(["-c", script, &count]).output().unwrap();
    assert!(made.status.success());
    made.stdout
}

/// Reads a picture to its end.
fn read(file: &Path) -> Result<(), PictureError> {
    let mut reader = Reader::open(file, false)?;
    let mut row = Vec::new();
    (0..reader.layout().size.height).try_for_each(|_| reader.row(&mut row))
}

/// The most memory that this process has used, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn enormous_pictures_cost_little_memory_and_time() {
    let mut farm = TestFarm::start();
    let folder = farm.folder.path().join("in");
    std::fs::create_dir(&folder).unwrap();
    for (name, bytes) in enormous() {
        for part in [bytes.len(), bytes.len() / 2, 40.min(bytes.len())] {
            let file = folder.join(name);
            std::fs::write(&file, &bytes[..part]).unwrap();
            let (started, before) = (Instant::now(), peak());
            let probed = task(&mut farm, probe(&file), &file).await;
            let read = read(&file);
            let (took, more) = (started.elapsed(), (peak() - before) >> 20);
            eprintln!("{name}, {part} bytes: {took:?}, {more} MiB; {probed:?}, {read:?}");
            assert!(matches!(read, Err(PictureError::Unusable(_))), "{name}: {read:?}");
            assert!(took < Duration::from_secs(20), "{name}: {took:?}");
            // Other tests are in other processes.
            assert!(more < 300 || std::env::var_os("NEXTEST").is_none(), "{name}: {more} MiB");
        }
    }
}
