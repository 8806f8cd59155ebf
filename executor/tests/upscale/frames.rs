//! Which frames a film has and where they are: in truncated files, in files that begin late, in the middle of a film.

use crate::films::{Film, H264, PICTURE, SOUND, encode, film, look, make, shown};
use crate::job::{axis, brief, farm, task};
use crate::video::run;
use pictor_tasks::body::{Body, Extract};
use pictor_tasks::space::Values;
use std::path::PathBuf;
use std::sync::Arc;

#[tokio::test]
async fn what_is_missing_of_a_truncated_film_is_said() {
    let mut farm = farm();
    let folder = farm.folder.path().to_owned();
    for (name, how) in [
        ("a.mp4", format!("{H264} -movflags +faststart -c:a aac")),
        ("b.mp4", format!("{H264} -qp 0 -movflags +faststart")),
        ("c.mp4", format!("{H264} -qp 0 -g 10 -movflags +frag_keyframe+empty_moov")),
        ("a.mov", "-c:v mjpeg -q:v 2 -movflags +faststart -c:a pcm_s16le".to_owned()),
        ("a.mkv", format!("{H264} -c:a aac")),
        ("a.avi", "-c:v mpeg4 -q:v 2 -bf 2 -c:a libmp3lame".to_owned()),
        ("a.flv", "-c:v flv1 -q:v 2 -c:a libmp3lame".to_owned()),
        ("a.wmv", "-c:v wmv2 -q:v 2 -c:a wmav2".to_owned()),
        ("a.mxf", "-c:v mpeg2video -q:v 2 -c:a pcm_s16le -ar 48000".to_owned()),
    ] {
        let whole = make(&farm, &format!("{PICTURE} {SOUND} {how}"), name);
        let bytes = std::fs::read(&whole).unwrap();
        let cut = folder.join(format!("cut-{name}"));
        std::fs::write(&cut, &bytes[..bytes.len() * 3 / 5]).unwrap();
        let ended = film(&mut farm, &cut, &encode(&cut, "a.mkv")).await;
        let Film { made, notes } = ended.unwrap_or_else(|found| panic!("{name}: {found:?}"));
        let count = shown(&made).len();
        assert!((5..25).contains(&count), "{name}: {count}");
        // A fragmented file says nothing about the fragments that follow.
        if name != "c.mp4" {
            let said = notes.iter().find(|note| note.contains("is cut short"));
            let said = said.unwrap_or_else(|| panic!("{name}: {notes:?}"));
            assert!(said.contains(&format!("{count} ")), "{name}: {said}, not {count}");
        }
    }
}

/// A duration may count from zero, wherever the first frame is.
#[tokio::test]
async fn a_whole_film_that_begins_late_is_not_cut_short() {
    let mut farm = farm();
    let late = "-output_ts_offset 5";
    for (name, how) in [
        ("a.flv", format!("{H264} -bf 3")),
        ("b.flv", format!("{H264} {late} -c:a aac")),
        ("a.mkv", format!("{H264} {late} -c:a aac")),
        ("a.webm", format!("-c:v libvpx {late} -c:a libopus")),
        ("a.wmv", format!("-c:v wmv2 {late} -c:a wmav2")),
        ("a.mp4", format!("{H264} {late} -c:a aac")),
        ("a.ts", format!("{H264} {late} -c:a mp2")),
    ] {
        let source = make(&farm, &format!("{PICTURE} {SOUND} {how}"), name);
        let (frames, _, notes) = look(&mut farm, &source, &encode(&source, "a.mkv"), 1)
            .await
            .unwrap_or_else(|found| panic!("{name}: {found:?}"));
        assert_eq!(frames.len(), 25, "{name}");
        assert!(!notes.iter().any(|note| note.contains("cut short")), "{name}: {notes:?}");
    }
}

/// Wherever a part of a film begins, its frames are those of a decoder that began at the start.
#[tokio::test]
async fn frames_are_the_same_wherever_decoding_begins() {
    let mut farm = farm();
    let folder = farm.folder.path().to_owned();
    let picture = "-f lavfi -i testsrc2=size=96x64:rate=10:duration=4";
    let open = "-c:v libx264 -pix_fmt yuv420p -bf 3 -g 12 -x264-params open-gop=1:keyint_min=12";
    for (name, how) in [
        ("a.avi", "-c:v mpeg4 -vtag XVID -q:v 2 -bf 2 -g 12".to_owned()),
        ("b.avi", "-c:v mpeg4 -q:v 2 -bf 2 -g 100".to_owned()),
        ("c.avi", open.to_owned()),
        ("a.mkv", open.to_owned()),
        ("a.ts", open.to_owned()),
        ("a.mp4", open.to_owned()),
        ("a.mpg", "-c:v mpeg2video -q:v 2 -bf 2 -g 12 -r 25".to_owned()),
        ("a.wmv", "-c:v wmv2 -q:v 2 -g 12".to_owned()),
        ("a.webm", "-c:v libvpx-vp9 -g 12".to_owned()),
    ] {
        let source = make(&farm, &format!("{picture} {how}"), name);
        let all = folder.join(format!("all-{name}"));
        std::fs::create_dir_all(&all).unwrap();
        let decode = format!(
            "-v error -i ../{name} -fps_mode passthrough -vf scale=in_color_matrix=smpte170m:out_range=pc:\
             flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp -pix_fmt rgb24 %d.png"
        );
        run(&all, "ffmpeg", &decode);
        let (frames, info, _) =
            look(&mut farm, &source, &encode(&source, "a.mkv"), 1).await.unwrap();
        for segment in 0..frames.len().div_ceil(7) {
            let body = Extract { source: source.display().to_string(), dim: "segment".into() };
            let blocks = Values::Blocks { of: Arc::new(frames.clone()), size: 7 };
            let axes = vec![axis("segment", blocks)];
            let brief = brief("extract", Body::Extract(body), Some(&source), axes);
            let products = task(&mut farm, brief, segment, vec![info.clone()]).await.unwrap();
            assert!(products.notes.is_empty(), "{name}: {:?}", products.notes);
            for output in &products.outputs {
                let number = output.name.strip_prefix("frame-").unwrap();
                let image = |path: PathBuf| image::open(path).unwrap().to_rgb8();
                let one = image(farm.artifact(output));
                let other = image(all.join(format!("{number}.png")));
                let differ = one.as_raw().iter().zip(other.as_raw()).map(|(a, b)| a.abs_diff(*b));
                let sum: u64 = differ.map(u64::from).sum();
                // Rounding differs; a different or a broken frame would be far off.
                assert!(sum < 3 * u64::from(one.width() * one.height()), "{name}: {number}: {sum}");
            }
        }
    }
}
