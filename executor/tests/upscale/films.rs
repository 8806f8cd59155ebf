//! Videos of every supported kind: taken apart and put together, or refused before any work is done.

use crate::farm::TestFarm;
use crate::job::{axis, brief, farm, input, task};
use crate::video::run;
use pictor_tasks::body::{Body, Codec, Encode, Extract, Probe, Rehearsal};
use pictor_tasks::message::{Bound, Failure, FailureKind, Input, Output};
use pictor_tasks::space::Values;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The inputs for one second of pictures and of sound.
pub(crate) const PICTURE: &str = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1";
pub(crate) const SOUND: &str = "-f lavfi -i sine=frequency=440:sample_rate=44100:duration=1";
pub(crate) const H264: &str = "-c:v libx264 -pix_fmt yuv420p -bf 2";

/// The result, and the notes.
pub(crate) struct Film {
    pub(crate) made: PathBuf,
    pub(crate) notes: Vec<String>,
}

/// The settings to encode a video from a source.
pub(crate) fn encode(source: &Path, file: &str) -> Encode {
    Encode {
        file: file.into(),
        fps: None,
        codec: None,
        quality: None,
        source: Some(source.display().to_string()),
        keep_audio: None,
        allow_gaps: false,
    }
}

/// Makes a film with ffmpeg.
pub(crate) fn make(farm: &TestFarm, arguments: &str, name: &str) -> PathBuf {
    let folder = farm.folder.path();
    run(folder, "ffmpeg", &format!("-v error -y {arguments} file:{name}"));
    folder.join(name)
}

/// Probes a source, with a rehearsal; returns the frames, the result, and the notes.
pub(crate) async fn look(
    farm: &mut TestFarm,
    source: &Path,
    encode: &Encode,
    scale: u32,
) -> Result<(Values, Input, Vec<String>), Failure> {
    let rehearsal = Rehearsal { encode: encode.clone(), model: None, scale: Some(scale) };
    let probe = Probe {
        source: source.display().to_string(),
        frame: Some("frame".into()),
        frames: None,
        tiles: None,
        rehearse: Some(rehearsal),
    };
    let mut brief = brief("probe", Body::Probe(probe), Some(source), Vec::new());
    brief.binds = vec!["frame".into()];
    let products = task(farm, brief, 0, Vec::new()).await?;
    let Bound::Values(frames) = products.bindings[0].values.clone() else { panic!("values") };
    Ok((frames, input("probe", String::new(), 0, &products.outputs[0]), products.notes))
}

/// Takes a source apart and puts it together.
pub(crate) async fn film(
    farm: &mut TestFarm,
    source: &Path,
    encode: &Encode,
) -> Result<Film, Failure> {
    film_over(farm, source, encode, &|number| (format!("frame={number}"), number - 1)).await
}

/// The same for pictures over more dimensions: `task` gives the label and index for a frame.
async fn film_over(
    farm: &mut TestFarm,
    source: &Path,
    encode: &Encode,
    task_of: &dyn Fn(u32) -> (String, u32),
) -> Result<Film, Failure> {
    let (frames, info, mut notes) = look(farm, source, encode, 1).await?;
    let mut inputs = Vec::new();
    for segment in 0..frames.len().div_ceil(10) {
        let extract = Extract { source: source.display().to_string(), dim: "segment".into() };
        let blocks = Values::Blocks { of: Arc::new(frames.clone()), size: 10 };
        let axes = vec![axis("segment", blocks)];
        let brief = brief("extract", Body::Extract(extract), Some(source), axes);
        let products = task(farm, brief, segment, vec![info.clone()]).await?;
        inputs.extend(products.outputs.iter().map(|output| {
            let number: u32 = output.name.strip_prefix("frame-").unwrap().parse().unwrap();
            let output = Output { name: "image".into(), ..output.clone() };
            let (label, index) = task_of(number);
            input("stitch", label, index, &output)
        }));
        notes.extend(products.notes);
    }
    assert_eq!(inputs.len(), frames.len() as usize, "{}: {notes:?}", source.display());
    inputs.push(info);
    let brief = brief("encode", Body::Encode(encode.clone()), Some(source), Vec::new());
    let products = task(farm, brief, 0, inputs).await?;
    // Users have read the notes of the probe already.
    notes.extend(
        products.notes.into_iter().filter(|note| !notes.contains(note)).collect::<Vec<_>>(),
    );
    Ok(Film { made: farm.artifact(&products.outputs[0]), notes })
}

/// The output of ffprobe about a film.
pub(crate) fn told(path: &Path, what: &str) -> String {
    let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    let said = run(folder, "ffprobe", &format!("-v error -of csv=p=0 {what} file:{name}"));
    let lines = said.lines().map(|line| line.trim_end_matches(','));
    // Side data of a stream is on a line of its own, which is empty.
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// The times at which frames are shown, in seconds; a frame without a time follows the one before.
pub(crate) fn shown(path: &Path) -> Vec<f64> {
    let what = "-select_streams V:0 -show_entries frame=best_effort_timestamp_time";
    let said = told(path, what);
    let mut times: Vec<f64> = Vec::new();
    for line in said.lines() {
        let next = times.last().map_or(0.0, |last| last + 0.04);
        times.push(line.parse().unwrap_or(next));
    }
    times
}

/// The brightness of a film's frames, in order.
fn lights(path: &Path) -> Vec<u8> {
    let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    let how = "-v error -fps_mode passthrough -vf scale=1:1,format=gray -f rawvideo -y lights";
    run(folder, "ffmpeg", &format!("-i file:{name} {how}"));
    std::fs::read(folder.join("lights")).unwrap()
}

#[tokio::test]
async fn a_film_of_pictures_over_more_dimensions_counts_the_frames_only() {
    let mut farm = farm();
    // Ten frames, each brighter than the one before, at times that no constant rate gives.
    let grey = "-f lavfi -i color=black:size=96x64:rate=25:duration=0.6,\
                geq=lum='16+N*14':cb=128:cr=128,select='lt(mod(n\\,3)\\,2)'";
    let source = make(&farm, &format!("{grey} -fps_mode vfr {H264}"), "grey.mp4");
    let before = shown(&source);
    assert_eq!(before.len(), 10);
    let frame_pass = |number: u32| (format!("frame={number},pass=2"), (number - 1) * 3 + 1);
    let pass_frame = |number: u32| (format!("pass=2,frame={number}"), 10 + number - 1);
    let of_words = |number: u32| (format!("shot.frame={number},pass=depth"), number * 3);
    let other_name = |number: u32| (format!("number={number},pass=2"), number * 3);
    let tasks: [&dyn Fn(u32) -> (String, u32); 4] =
        [&frame_pass, &pass_frame, &of_words, &other_name];
    for task_of in tasks {
        let over = task_of(1).0;
        let body = encode(&source, "made.mp4");
        let film = film_over(&mut farm, &source, &body, task_of).await;
        let Film { made, .. } = film.unwrap_or_else(|found| panic!("{over}: {found:?}"));
        let (after, lights) = (shown(&made), lights(&made));
        assert_eq!(after.len(), before.len(), "{over}");
        let off = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off <= 0.001, "{over}: {off} s");
        assert!(lights.is_sorted_by(|a, b| a < b), "{over}: {lights:?}");
    }
    // Two pictures for each frame are not a film.
    let twice = |number: u32| (format!("frame={},pass={number}", number.div_ceil(2)), number);
    let film = film_over(&mut farm, &source, &encode(&source, "made.mp4"), &twice).await;
    let message = film.err().unwrap().message;
    assert!(message.contains("two pictures of frame 1"), "{message}");
}

/// A video for each extension: how ffmpeg makes it, and the sound codec that MP4 cannot contain.
fn kinds() -> Vec<(&'static str, String, Option<&'static str>)> {
    let (mpeg2, mpeg4) = ("-c:v mpeg2video -q:v 2 -bf 2", "-c:v mpeg4 -q:v 2 -bf 2");
    let (theora, rm) = ("-f ogg -c:v libtheora -c:a libvorbis", "-c:v rv20 -s 176x144 -f rm");
    let (qt, f4v) = ("-f mov -c:v mjpeg -c:a pcm_s16le", format!("{H264} -f mp4 -c:a aac"));
    let bluray = format!("-f mpegts -mpegts_m2ts_mode 1 {H264}");
    let dv = "-vf scale=720:576,format=yuv420p -c:v dvvideo -c:a pcm_s16le -ar 48000 -ac 2 -f dv";
    let mxf = "-c:v mpeg2video -q:v 2 -c:a pcm_s16le -ar 48000";
    vec![
        ("mp4", format!("{H264} -c:a aac"), None),
        ("m4v", format!("{H264} -c:a aac"), None),
        ("mov", format!("{H264} -c:a pcm_s16le"), Some("pcm_s16le")),
        ("qt", qt.to_owned(), Some("pcm_s16le")),
        ("f4v", f4v, None),
        ("3gp", "-c:v h263 -s 176x144 -c:a aac".into(), None),
        ("3g2", format!("{mpeg4} -c:a aac"), None),
        ("mkv", format!("{H264} -c:a libvorbis"), Some("vorbis")),
        ("webm", "-c:v libvpx-vp9 -c:a libopus".into(), None),
        ("avi", format!("{mpeg4} -vtag XVID -c:a libmp3lame"), None),
        ("divx", format!("-f avi {mpeg4} -c:a libmp3lame -ar 11025"), Some("mp3")),
        ("mpg", format!("{mpeg2} -c:a mp2"), Some("mp2")),
        ("mpeg", "-c:v mpeg1video -q:v 2 -bf 2 -c:a mp2".into(), Some("mp2")),
        ("vob", format!("-f vob {mpeg2} -c:a ac3"), None),
        ("ts", format!("{H264} -c:a aac"), None),
        ("m2ts", format!("{bluray} -c:a ac3"), None),
        ("mts", format!("{bluray} -c:a ac3"), None),
        ("m2t", format!("-f mpegts {mpeg2} -c:a mp2"), Some("mp2")),
        ("wmv", "-c:v wmv2 -q:v 2 -c:a wmav2".into(), Some("wmav2")),
        ("asf", "-c:v msmpeg4 -q:v 2 -c:a wmav2".into(), Some("wmav2")),
        ("flv", "-c:v flv1 -q:v 2 -c:a libmp3lame".into(), None),
        ("ogv", theora.to_owned(), Some("vorbis")),
        ("ogm", theora.to_owned(), Some("vorbis")),
        ("mxf", mxf.to_owned(), Some("pcm_s16le")),
        ("dv", dv.to_owned(), Some("pcm_s16le")),
        ("rm", format!("{rm} -c:a ac3"), None),
        ("rmvb", format!("{rm} -c:a ac3"), None),
    ]
}

#[tokio::test]
async fn every_kind_of_video_keeps_its_frames_and_their_times() {
    let mut farm = farm();
    let kinds = kinds();
    let known = pictor_tasks::media::video_extensions();
    let tried = kinds.iter().map(|(extension, ..)| format!(".{extension}")).collect::<Vec<_>>();
    assert_eq!(known, tried.join(", "));
    for (extension, how, anew) in kinds {
        // A name that many programs would misinterpret.
        let name = format!("-2024-05-06T12:30.{extension}");
        let source = make(&farm, &format!("{PICTURE} {SOUND} {how}"), &name);
        let file = "-2024-05-06T12:30.mp4";
        let ended = film(&mut farm, &source, &encode(&source, file)).await;
        let Film { made, notes } = ended.unwrap_or_else(|found| panic!("{name}: {found:?}"));
        let (before, after) = (shown(&source), shown(&made));
        assert!(before.len() >= 25, "{name}: {} frames", before.len());
        assert_eq!(before.len(), after.len(), "{name}");
        // The result begins when the source does, even if that begins with sound.
        let start: f64 = told(&source, "-show_entries format=start_time").trim().parse().unwrap();
        let off = before.iter().zip(&after).map(|(a, b)| (a - start - b).abs());
        let off = off.fold(0.0, f64::max);
        assert!(off <= 0.001, "{name}: {off} s");
        let length = told(&made, "-select_streams v -show_entries stream=duration");
        let length: f64 = length.trim().parse().unwrap();
        let expected = before[before.len() - 1] - before[0] + 0.04;
        assert!((length - expected).abs() < 0.03, "{name}: {length} s, not {expected}");
        let sound = told(&made, "-select_streams a -show_entries stream=codec_name");
        assert!(!sound.is_empty(), "{name}: no sound");
        let of_sound: Vec<_> = notes.iter().filter(|n| n.contains("coded anew as AAC")).collect();
        let said = anew.map(|codec| format!("sound of the codec {codec} of "));
        assert_eq!(of_sound.len(), usize::from(said.is_some()), "{name}: {notes:?}");
        assert!(said.is_none_or(|said| of_sound[0].starts_with(&said)), "{name}: {notes:?}");
        assert!(!notes.iter().any(|note| note.contains("cut short")), "{name}: {notes:?}");
        let clock = notes.iter().any(|note| note.contains("the time code of "));
        assert_eq!(clock, ["mxf", "dv"].contains(&extension), "{name}: {notes:?}");
        if let Some(lost) = notes.iter().find(|note| note.contains("are left out")) {
            panic!("{name}: {lost}");
        }
    }
}

#[tokio::test]
async fn colours_of_every_number_are_carried_or_left_out_and_said() {
    let mut farm = farm();
    let plain = make(&farm, &format!("{PICTURE} -frames:v 1 {H264}"), "plain.mp4");
    let mut named = 0;
    let files = ["a.mp4", "a.mkv", "a.mov"].into_iter().cycle();
    for (number, file) in (0..=19).chain([22, 23, 100, 255]).zip(files) {
        let matrix = if number == 0 { 2 } else { number };
        let set = format!(
            "-i {} -c copy -bsf:v h264_metadata=colour_primaries={number}:\
             transfer_characteristics={number}:matrix_coefficients={matrix}",
            plain.display()
        );
        let source = make(&farm, &set, &format!("c{number}.mkv"));
        let what =
            "-select_streams v -show_entries stream=color_space,color_transfer,color_primaries";
        let before = told(&source, what);
        let film = film(&mut farm, &source, &encode(&source, file)).await;
        let Film { made, notes } = film.unwrap_or_else(|found| panic!("{before}: {found:?}"));
        let after = told(&made, what);
        // The matrix, the transfer function, the primaries.
        for (place, (before, after)) in before.split(',').zip(after.split(',')).enumerate() {
            let said = notes.iter().any(|note| note.contains(&format!("`{before}`")));
            match before {
                "reserved" => assert!(said && after == "unknown", "{number} {file}: {after}"),
                "unknown" => assert!(!said, "{number} {file}: {notes:?}"),
                // A matrix is kept unless samples cannot be computed by it, which is noted.
                _ if place == 0 && !(said || before == "bt2020c") => {
                    assert_eq!(after, before, "{number} {file}");
                }
                _ if place == 0 => {}
                // The container states it; x264 has no name for it, and ffprobe prefers what the stream states.
                "ebu3213" if !file.ends_with("mov") => {}
                _ => {
                    assert_eq!(after, before, "{number} {file}");
                    named += 1;
                }
            }
        }
    }
    assert!(named > 25, "{named}");
}

/// The properties stated by a PAL DVD.
#[tokio::test]
async fn a_video_says_the_colours_of_its_source() {
    let mut farm = farm();
    let how =
        "-c:v mpeg2video -q:v 2 -color_primaries bt470bg -color_trc gamma28 -colorspace bt470bg";
    let source = make(&farm, &format!("{PICTURE} -frames:v 3 {how}"), "dvd.mpg");
    let Film { made, notes } = film(&mut farm, &source, &encode(&source, "a.mp4")).await.unwrap();
    let what = "-show_entries stream=color_space,color_transfer,color_primaries";
    assert_eq!(told(&made, what), "bt470bg,bt470bg,bt470bg");
    assert_eq!(notes, [] as [&str; 0]);
    // It lasts equally long, even where only the last packet determines that.
    for file in ["a.mkv", "a.mov"] {
        let Film { made, .. } = film(&mut farm, &source, &encode(&source, file)).await.unwrap();
        let length: f64 = told(&made, "-show_entries format=duration").parse().unwrap();
        assert!((length - 0.12).abs() < 0.002, "{file}: {length} s");
    }
}

/// Broadcast recordings have gaps; damaged sound must not make a film fail.
#[tokio::test]
async fn a_damaged_packet_of_sound_stops_nothing() {
    let mut farm = farm();
    let whole = make(&farm, &format!("{PICTURE} {SOUND} {H264} -c:a mp2 -b:a 384k"), "a.ts");
    let bytes = std::fs::read(&whole).unwrap();
    let id = |packet: &[u8]| u16::from_be_bytes([packet[1] & 31, packet[2]]);
    let packets: Vec<&[u8]> = bytes.chunks_exact(188).collect();
    let sound: Vec<usize> = (0..packets.len()).filter(|n| id(packets[*n]) == 0x101).collect();
    let lost = sound[sound.len() / 2];
    let rest = packets.iter().enumerate().filter(|(number, _)| *number != lost);
    let source = farm.folder.path().join("lost.ts");
    std::fs::write(&source, rest.flat_map(|(_, packet)| packet.to_vec()).collect::<Vec<_>>())
        .unwrap();
    for file in ["a.mkv", "a.mp4"] {
        let Film { made, .. } = film(&mut farm, &source, &encode(&source, file)).await.unwrap();
        assert_eq!(shown(&made).len(), 25, "{file}");
    }
}

#[tokio::test]
async fn transparency_is_kept_where_the_codec_can_and_else_is_over_black() {
    let mut farm = farm();
    // Red; opaque on the left, half transparent on the right.
    let red = "-f lavfi -i color=red:size=96x64:rate=25:duration=0.2,format=rgba,\
               geq=r=255:g=0:b=0:a='if(lt(X\\,48)\\,255\\,128)'";
    for (name, how) in [
        ("a.mov", "-c:v qtrle"),
        ("b.mov", "-c:v png"),
        ("c.mov", "-c:v prores_ks -profile:v 4 -pix_fmt yuva444p10le"),
        ("a.mkv", "-c:v ffv1 -pix_fmt bgra"),
        ("a.webm", "-c:v libvpx-vp9 -lossless 1 -pix_fmt yuva420p"),
        ("b.webm", "-c:v libvpx -crf 4 -b:v 5M -pix_fmt yuva420p -auto-alt-ref 0"),
    ] {
        let source = make(&farm, &format!("{red} {how}"), name);
        for (file, kept) in [("a.mov", true), ("a.mp4", false)] {
            let Film { made, notes } =
                film(&mut farm, &source, &encode(&source, file)).await.unwrap();
            let noted = notes.iter().any(|note| note.contains("has no transparency"));
            assert_eq!(noted, !kept, "{name}: {notes:?}");
            let png = farm.folder.path().join("first.png");
            let arguments =
                format!("-v error -y -i file:{} -frames:v 1 {}", made.display(), png.display());
            run(farm.folder.path(), "ffmpeg", &arguments);
            let picture = image::open(&png).unwrap();
            assert_eq!(picture.color().has_alpha(), kept, "{name} {file}");
            let picture = picture.to_rgba8();
            let right = if kept { [255, 128] } else { [128, 255] };
            for (x, [red, alpha]) in [(16, [255, 255]), (80, right)] {
                let [r, g, b, a] = picture.get_pixel(x, 32).0;
                let off = [(r, red), (g, 0), (b, 0), (a, alpha)].map(|(a, b)| a.abs_diff(b));
                assert!(off.iter().all(|off| *off < 8), "{name} {file} {x}: {r} {g} {b} {a}");
            }
        }
    }
}

#[tokio::test]
async fn lists_of_files_are_refused_whatever_they_are_called() {
    let mut farm = farm();
    let part = make(&farm, &format!("{PICTURE} {H264}"), "part.ts");
    for (name, text) in [
        ("hls.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\npart.ts\n#EXT-X-ENDLIST\n"),
        (
            "dash.mkv",
            "<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\"></MPD>\n",
        ),
        ("concat.mov", "ffconcat version 1.0\nfile part.ts\n"),
    ] {
        let source = part.with_file_name(name);
        std::fs::write(&source, text).unwrap();
        let failure = look(&mut farm, &source, &encode(&source, "a.mp4"), 1).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert!(failure.message.contains("-c copy video.mkv"), "{}", failure.message);
    }
    // A list that ffmpeg would follow, although it is not text, is not a supported format.
    let source = part.with_file_name("binary.mp4");
    std::fs::write(&source, "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\npart.ts\n#\0\n")
        .unwrap();
    let failure = look(&mut farm, &source, &encode(&source, "a.mp4"), 1).await.unwrap_err();
    assert!(failure.message.contains("none of the kinds that are read"), "{}", failure.message);
    // MXF by ffmpeg has the times of decoding only.
    let source = make(&farm, &format!("{PICTURE} {H264} -bf 3"), "jumbled.mxf");
    let failure = look(&mut farm, &source, &encode(&source, "a.mp4"), 1).await.unwrap_err();
    assert!(failure.message.contains("in which frames are decoded"), "{}", failure.message);
    let anew = format!("-i {} -vf setpts=N/FR/TB -c:v ffv1 -c:a copy", source.display());
    let mended = make(&farm, &anew, "anew.mkv");
    assert!(look(&mut farm, &mended, &encode(&mended, "a.mp4"), 1).await.is_ok());
    // Two recordings in one file.
    let joined = [std::fs::read(&part).unwrap(), std::fs::read(&part).unwrap()].concat();
    let source = part.with_file_name("joined.ts");
    std::fs::write(&source, joined).unwrap();
    let failure = look(&mut farm, &source, &encode(&source, "a.mp4"), 1).await.unwrap_err();
    assert!(failure.message.contains("go back after 25 frames"), "{}", failure.message);
    // The advice in the message helps.
    let mended = make(&farm, &format!("-i {} -c copy", source.display()), "mended.mkv");
    let Film { made, .. } = film(&mut farm, &mended, &encode(&mended, "a.mp4")).await.unwrap();
    assert_eq!(shown(&made).len(), 50);
}

#[tokio::test]
async fn what_cannot_be_encoded_is_said_by_the_probe() {
    let mut farm = farm();
    let source = make(&farm, &format!("{PICTURE} -frames:v 2 {H264}"), "a.mp4");
    let plain = encode(&source, "b.mp4");
    let too_large = look(&mut farm, &source, &plain, 400).await.unwrap_err();
    assert_eq!(too_large.kind, FailureKind::Invalid);
    let said = "b.mp4 cannot be made of pictures of 38400x25600 pixels";
    assert!(too_large.message.starts_with(said), "{}", too_large.message);
    let (prores, fast) = (Some(Codec::Prores), Some(2000.0));
    for (wrong, said) in [
        (Encode { codec: prores, ..plain.clone() }, "ProRes cannot be kept"),
        (Encode { quality: Some(52), ..plain.clone() }, "expected 0 to 51"),
        (Encode { fps: fast, ..plain.clone() }, "at most 1000"),
    ] {
        let failure = look(&mut farm, &source, &wrong, 1).await.unwrap_err();
        assert!(failure.message.contains(said), "{}", failure.message);
    }
}

/// Everything that a container with a film may contain.
#[tokio::test]
async fn streams_are_kept_coded_anew_or_left_out_with_a_note() {
    let mut farm = farm();
    let folder = farm.folder.path().to_owned();
    std::fs::write(folder.join("words.srt"), "1\n00:00:00,100 --> 00:00:00,900\nWords\n").unwrap();
    std::fs::write(folder.join("a.ttf"), "a font").unwrap();
    let inputs = format!("{PICTURE} {SOUND} -i {}", folder.join("words.srt").display());
    let maps = "-map 0 -map 1 -map 1 -map 1 -map 2 -map 2 -c:a:0 flac -c:a:1 ac3 -c:a:2 libmp3lame \
                -ar:a:2 8000 -c:s:0 srt -c:s:1 dvdsub -s 96x64";
    let font = format!(
        "-attach {} -metadata:s:t mimetype=application/x-truetype-font",
        folder.join("a.ttf").display()
    );
    // Picture subtitles cannot be converted here, so use text of two kinds.
    let maps = maps.replace("-c:s:1 dvdsub -s 96x64", "-c:s:1 ass");
    let source = make(&farm, &format!("{inputs} {maps} {H264} {font}"), "a.mkv");
    let what = "-show_entries stream=codec_name";
    let all = |path: &Path| told(path, what).lines().map(str::to_owned).collect::<Vec<_>>();
    for (file, streams, notes) in [
        ("a.mkv", ["h264", "flac", "ac3", "mp3", "subrip", "ass", "ttf"].as_slice(), &[][..]),
        (
            "a.mp4",
            &["h264", "aac", "ac3", "aac", "mov_text", "mov_text"],
            &[
                "sound of the codec flac",
                "sound of the codec mp3",
                "an attachment of the codec ttf",
            ],
        ),
    ] {
        let film = film(&mut farm, &source, &encode(&source, file)).await.unwrap();
        assert_eq!(all(&film.made), streams, "{file}");
        assert_eq!(film.notes.len(), notes.len(), "{file}: {:?}", film.notes);
        for (note, begin) in film.notes.iter().zip(notes) {
            assert!(note.starts_with(begin), "{file}: {note}");
        }
    }
    // A time code, and a cover.
    run(&folder, "ffmpeg", "-v error -y -f lavfi -i color=blue:size=64x64 -frames:v 1 cover.png");
    let clock = format!(
        "{PICTURE} {SOUND} -i {} -map 0 -map 1 -map 2 {H264} -c:v:1 copy -disposition:v:1 \
         attached_pic -timecode 01:00:00:00",
        folder.join("cover.png").display()
    );
    let source = make(&farm, &clock, "clock.mp4");
    let film = film(&mut farm, &source, &encode(&source, "b.mp4")).await.unwrap();
    assert_eq!(shown(&film.made).len(), 25);
    for left_out in ["a cover picture (png)", "data (tmcd)"] {
        assert!(film.notes[0].contains(left_out), "{:?}", film.notes);
    }
}
