//! A folder of models: adding, finding, reading.

use crate::{folder, runtime};
use pictor_models::{Folder, Manifest, ModelError, Origin};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn origin(name: &str) -> Origin {
    Origin {
        name: name.into(),
        licence: "CC0-1.0".into(),
        source: "a test".into(),
        receptive_field: None,
    }
}

fn file_of(folder: &Folder, manifest: &Manifest) -> PathBuf {
    folder.path().join(format!("{}.onnx", manifest.digest))
}

fn empty() -> (tempfile::TempDir, Folder) {
    let scratch = tempfile::tempdir().unwrap();
    let folder = Folder::new(scratch.path().join("models"));
    (scratch, folder)
}

/// The digests show whether two machines import the same. A change of what is written changes them: then mention it in
/// the change log, since workers identify models by digest.
#[test]
fn the_five_public_models_are_imported() {
    let found: Vec<_> = folder()
        .list()
        .unwrap()
        .into_iter()
        .map(|m| (m.name, m.scale, m.receptive_field, m.channels, m.digest[..16].to_owned()))
        .collect();
    let expected = [
        ("realesr-animevideov3-x2", 2, 19, 3, "e20dce913d19a973"),
        ("realesr-animevideov3-x3", 3, 19, 3, "b1378133f4b68688"),
        ("realesr-animevideov3-x4", 4, 18, 3, "f01395c0620872c7"),
        ("realesrgan-x4plus", 4, 349, 3, "dbe9987aa88058ca"),
        ("realesrgan-x4plus-anime", 4, 94, 3, "c8fc5344768f0baf"),
    ];
    let expected: Vec<_> =
        expected.map(|(name, s, f, c, digest)| (name.into(), s, f, c, digest.into())).into();
    assert_eq!(found, expected);
}

#[test]
fn models_are_for_everybody_who_may_read_files_of_ours() {
    let (scratch, ours) = empty();
    let known = folder().find("realesr-animevideov3-x2").unwrap();
    let added = ours.add(&file_of(&folder(), &known), origin("shared"), &runtime()).unwrap();
    let plain = scratch.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&file_of(&ours, &added)), mode(&plain));
    assert_eq!(mode(&ours.path().join("shared.json")), mode(&plain));
}

#[test]
fn a_file_that_is_added_by_hand_is_measured_and_found() {
    let (_scratch, ours) = empty();
    for name in ["realesr-animevideov3-x2", "realesr-animevideov3-x3", "realesr-animevideov3-x4"] {
        let known = folder().find(name).unwrap();
        let file = file_of(&folder(), &known);
        let added = ours.add(&file, origin("by-hand"), &runtime());
        let expected = Manifest {
            name: "by-hand".into(),
            licence: "CC0-1.0".into(),
            source: "a test".into(),
            ..known
        };
        assert_eq!(added.unwrap(), expected);
        assert_eq!(ours.find("by-hand").unwrap(), expected);
        assert_eq!(ours.list().unwrap(), std::slice::from_ref(&expected));
        assert_eq!(ours.read(&expected).unwrap(), std::fs::read(&file).unwrap());
        let again = ours.add(&file, origin("by-hand"), &runtime()).unwrap();
        assert_eq!(again, expected, "adding the same again changes nothing");
        std::fs::remove_file(ours.path().join("by-hand.json")).unwrap();
    }
}

#[test]
fn a_name_stays_with_its_model() {
    let (_scratch, ours) = empty();
    let file = |name: &str| file_of(&folder(), &folder().find(name).unwrap());
    ours.add(&file("realesr-animevideov3-x2"), origin("mine"), &runtime()).unwrap();
    let other = ours.add(&file("realesr-animevideov3-x4"), origin("mine"), &runtime());
    assert!(matches!(other, Err(ModelError::Taken { .. })), "{other:?}");
    assert_eq!(ours.find("mine").unwrap().scale, 2);
    for name in ["", "../x", "Mine", "a b", ".x", &"x".repeat(65)] {
        let refused = ours.add(&file("realesr-animevideov3-x2"), origin(name), &runtime());
        assert!(matches!(refused, Err(ModelError::Name(_))), "{name}: {refused:?}");
    }
}

#[test]
fn an_unknown_name_gets_a_hint() {
    let unknown = folder().find("realesr-animevideo-x2").unwrap_err().to_string();
    assert!(unknown.contains("did you mean `realesr-animevideov3-x2`?"), "{unknown}");
    assert!(unknown.contains("realesrgan-x4plus-anime"), "{unknown}");
    let unknown = folder().find("waifu").unwrap_err().to_string();
    assert!(!unknown.contains("did you mean"), "{unknown}");
    let (_scratch, ours) = empty();
    let unknown = ours.find("../etc/passwd").unwrap_err().to_string();
    assert!(unknown.contains("pictor models pull"), "{unknown}");
}

#[test]
fn a_changed_or_short_model_file_is_not_used() {
    let (_scratch, ours) = empty();
    let known = folder().find("realesr-animevideov3-x2").unwrap();
    let manifest = ours.add(&file_of(&folder(), &known), origin("mine"), &runtime()).unwrap();
    let path = file_of(&ours, &manifest);
    let whole = std::fs::read(&path).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    for bytes in [&whole[..whole.len() - 1], &[], &changed] {
        std::fs::write(&path, bytes).unwrap();
        let damaged = ours.read(&manifest).unwrap_err().to_string();
        assert!(damaged.contains("is damaged") && damaged.contains("again"), "{damaged}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(ours.read(&manifest), Err(ModelError::Io(..))));
    ours.add(&file_of(&folder(), &known), origin("mine"), &runtime()).unwrap();
    assert_eq!(ours.read(&manifest).unwrap(), whole, "adding again repairs it");
}

#[test]
fn a_file_that_is_no_network_is_not_added() {
    let (scratch, ours) = empty();
    let known = folder().find("realesr-animevideov3-x2").unwrap();
    let whole = std::fs::read(file_of(&folder(), &known)).unwrap();
    let file = scratch.path().join("network.onnx");
    for bytes in [&whole[..whole.len() / 2], &whole[..whole.len() - 1], b"\x89PNG", b""] {
        std::fs::write(&file, bytes).unwrap();
        let refused = ours.add(&file, origin("mine"), &runtime()).unwrap_err().to_string();
        assert!(refused.contains("network.onnx is no ONNX file"), "{refused}");
    }
    assert!(ours.list().unwrap().is_empty());
    let missing = ours.add(Path::new("/missing.onnx"), origin("mine"), &runtime());
    assert!(matches!(missing, Err(ModelError::Io(..))), "{missing:?}");
}

/// The message of ONNX Runtime names the unknown operator.
#[test]
fn a_network_with_an_unknown_operator_is_not_added() {
    let (scratch, ours) = empty();
    let known = folder().find("realesr-animevideov3-x2").unwrap();
    let whole = std::fs::read(file_of(&folder(), &known)).unwrap();
    let file = scratch.path().join("network.onnx");
    let (from, to) = (b"DepthToSpace", b"DepthToPlace");
    let at = whole.windows(from.len()).rposition(|window| window == from).unwrap();
    let mut other = whole;
    other[at..at + to.len()].copy_from_slice(to);
    std::fs::write(&file, other).unwrap();
    let refused = ours.add(&file, origin("mine"), &runtime()).unwrap_err().to_string();
    for part in ["network.onnx cannot upscale", "DepthToPlace"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(ours.list().unwrap().is_empty());
}

#[test]
fn a_manifest_that_lies_is_refused() {
    let (_scratch, ours) = empty();
    let known = folder().find("realesr-animevideov3-x2").unwrap();
    let manifest = ours.add(&file_of(&folder(), &known), origin("mine"), &runtime()).unwrap();
    let path = ours.path().join("mine.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        (manifest.digest.as_str(), "../../secret"),
        ("\"mine\"", "\"yours\""),
        ("\"scale\": 2", "\"scale\": 0"),
        ("\"scale\": 2", "\"scale\": 2, \"more\": 1"),
        ("{", ""),
    ] {
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let refused = ours.find("mine").unwrap_err().to_string();
        assert!(refused.contains("mine.json is no manifest"), "{from} -> {to}: {refused}");
    }
}

#[test]
fn a_file_of_another_kind_says_what_to_do_with_it() {
    let (scratch, ours) = empty();
    for (name, parts) in [
        ("mine.pth", ["weights of PyTorch", "spandrel"]),
        ("mine.SafeTensors", ["weights of PyTorch", "docs/upscaling.md"]),
        ("mine.bin", ["network for ncnn", "docs/upscaling.md"]),
    ] {
        let file = scratch.path().join(name);
        std::fs::write(&file, "x").unwrap();
        let said = ours.add(&file, origin("mine"), &runtime()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn the_networks_of_an_older_folder_are_taken_over_once() {
    let (_scratch, ours) = empty();
    ours.take_over(&folder()).unwrap();
    assert_eq!(ours.list().unwrap(), folder().list().unwrap());
    assert!(ours.path().join("libonnxruntime.so").exists());
    let known = ours.find("realesr-animevideov3-x2").unwrap();
    let file = file_of(&ours, &known);
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    ours.take_over(&folder()).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before);
}
