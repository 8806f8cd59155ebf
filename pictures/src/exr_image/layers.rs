//! The layers and passes of a multilayer picture, as Blender names them: `LAYER.PASS.CHANNEL`, for example
//! `ViewLayer.Combined.R`. The compositor's result is `Composite.Combined`.

use super::ExrImage;
use exr::image::{AnyChannel, AnyChannels, FlatSamples, Layer};
use exr::prelude::Text;
use std::collections::BTreeMap;

/// The pass that is the picture itself.
const PICTURE: &str = "Combined";
/// The layer of the compositor's result.
const COMPOSITE: &str = "Composite";
/// Blender's name for the renderer's picture when there is a denoised one beside it.
const NOISY: &str = "Noisy Image";
/// The prefix of the passes of a Cryptomatte, which only make sense together, and of the attributes that describe them.
const CRYPTOMATTE: &str = "Crypto";
const CRYPTOMATTE_ATTRIBUTES: &str = "cryptomatte/";

/// The parts of a channel's name.
struct Name<'a> {
    layer: &'a str,
    pass: &'a str,
    channel: &'a str,
}

impl<'a> Name<'a> {
    /// Returns `None` if it is not a channel of a pass of a layer.
    fn of(text: &'a str) -> Option<Self> {
        let (rest, channel) = text.rsplit_once('.')?;
        let (layer, pass) = rest.rsplit_once('.')?;
        Some(Self { layer, pass, channel })
    }
}

/// A name as Blender writes it, which is in UTF-8.
fn text_of(name: &Text) -> String {
    String::from_utf8_lossy(name.as_slice()).into_owned()
}

fn text(name: &str) -> Text {
    Text::from_slice_unchecked(name.as_bytes())
}

impl ExrImage {
    /// Turns a rendered multilayer picture into what Blender's own multilayer file holds: the pictures in `denoised`,
    /// by layer, replace the noisy ones, which are kept as `Noisy Image`; the compositor's result is added; whatever
    /// has a name that begins with one of `dropped` is left out.
    #[must_use]
    pub fn finished(
        mut self,
        denoised: &BTreeMap<String, Self>,
        composite: Option<&Self>,
        dropped: &[String],
    ) -> Self {
        let Some(part) = self.image.layer_data.first_mut() else { return self };
        let mut list: Vec<_> = part.channel_data.list.drain(..).collect();
        list.retain(|channel| {
            let name = text_of(&channel.name);
            !dropped.iter().any(|start| name.starts_with(start.as_str()))
        });
        for channel in &mut list {
            let full = text_of(&channel.name);
            if let Some(Name { layer, pass: PICTURE, channel: last }) = Name::of(&full)
                && denoised.contains_key(layer)
            {
                channel.name = text(&format!("{layer}.{NOISY}.{last}"));
            }
        }
        let pictures = denoised.iter().map(|(layer, picture)| (layer.as_str(), picture));
        for (layer, picture) in pictures.chain(composite.map(|picture| (COMPOSITE, picture))) {
            for channel in super::channels(&picture.image) {
                let name = text(&format!("{layer}.{PICTURE}.{}", text_of(&channel.name)));
                list.push(AnyChannel { name, ..channel.clone() });
            }
        }
        part.channel_data = AnyChannels::sort(list.into());
        self
    }

    /// Separates the picture from the passes, which are returned by `LAYER.PASS`. The picture is the compositor's
    /// result if there is one, otherwise that of the first layer. The other layers' pictures count as passes.
    pub fn split(&self) -> (Option<Self>, BTreeMap<String, Self>) {
        let mut parts: BTreeMap<String, Vec<AnyChannel<FlatSamples>>> = BTreeMap::new();
        for channel in super::channels(&self.image) {
            let full = text_of(&channel.name);
            let Some(Name { layer, pass, channel: last }) = Name::of(&full) else { continue };
            if pass.starts_with(CRYPTOMATTE) {
                let pass = pass.trim_end_matches(|c: char| c.is_ascii_digit());
                parts.entry(format!("{layer}.{pass}")).or_default().push(channel.clone());
            } else {
                let channel = AnyChannel { name: text(last), ..channel.clone() };
                parts.entry(format!("{layer}.{pass}")).or_default().push(channel);
            }
        }
        let first = super::channels(&self.image).find_map(|channel| {
            let full = text_of(&channel.name);
            let name =
                Name::of(&full).filter(|name| name.pass == PICTURE && name.layer != COMPOSITE)?;
            Some(name.layer.to_owned())
        });
        let composite = format!("{COMPOSITE}.{PICTURE}");
        let picture = match first {
            _ if parts.contains_key(&composite) => parts.remove(&composite),
            Some(layer) => parts.remove(&format!("{layer}.{PICTURE}")),
            None => None,
        };
        let alone = |list: Vec<AnyChannel<FlatSamples>>| {
            let part = &self.image.layer_data[0];
            let mut attributes = part.attributes.clone();
            if !list.iter().any(|channel| text_of(&channel.name).contains(CRYPTOMATTE)) {
                let is_other = |name: &Text| !text_of(name).starts_with(CRYPTOMATTE_ATTRIBUTES);
                attributes.other.retain(|name, _| is_other(name));
            }
            let channel_data = AnyChannels::sort(list.into());
            let mut image = self.image.clone();
            image.layer_data =
                [Layer { channel_data, attributes, ..part.clone() }].into_iter().collect();
            Self { image, size: self.size }
        };
        (picture.map(alone), parts.into_iter().map(|(name, list)| (name, alone(list))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exr::image::{Blocks, Encoding, Image};
    use exr::meta::attribute::AttributeValue;
    use exr::meta::header::{ImageAttributes, LayerAttributes};
    use exr::prelude::{Compression, LineOrder, WritableImage as _};
    use std::path::Path;

    /// A picture of 2 x 1 pixels with these channels, whose samples are their indices in the list.
    fn picture(folder: &Path, channels: &[&str]) -> ExrImage {
        let values = (0_u8..).map(f32::from);
        let list = channels.iter().zip(values).map(|(name, value)| {
            AnyChannel::new(text(name), FlatSamples::F32(vec![value, value + 0.5]))
        });
        let mut attributes = LayerAttributes::default();
        let manifest = AttributeValue::Text(Text::from("{}"));
        attributes.other.insert(Text::from("cryptomatte/a1/manifest"), manifest);
        let encoding = Encoding {
            compression: Compression::Uncompressed,
            blocks: Blocks::ScanLines,
            line_order: LineOrder::Increasing,
        };
        let channels = AnyChannels::sort(list.collect());
        let layer = Layer::new((2, 1), attributes, encoding, channels);
        let image = Image::new(ImageAttributes::with_size((2, 1)), layer);
        let path = folder.join("picture.exr");
        image.write().to_file(&path).unwrap();
        ExrImage::read(&path).unwrap()
    }

    /// The channels with their first samples.
    fn samples(image: &ExrImage) -> Vec<(String, f32)> {
        let first = |channel: &AnyChannel<FlatSamples>| {
            let value = channel.sample_data.values_as_f32().next().unwrap();
            (text_of(&channel.name), value)
        };
        super::super::channels(&image.image).map(first).collect()
    }

    fn named(pairs: &[(&str, f32)]) -> Vec<(String, f32)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn a_finished_frame_has_the_denoised_picture_the_noisy_one_and_the_compositors() {
        let folder = tempfile::tempdir().unwrap();
        let raw = ["Ä.1.Combined.R", "Ä.1.Denoising Normal.X", "Far.Combined.R", "Far.Depth.Z"];
        let raw = picture(folder.path(), &raw);
        let denoised = [("Ä.1".to_owned(), picture(folder.path(), &["A", "R"]))].into();
        let composite = picture(folder.path(), &["R"]);
        let done = raw.clone().finished(&denoised, Some(&composite), &["Ä.1.Denoising ".into()]);
        let expected = [
            ("Composite.Combined.R", 0.0),
            ("Far.Combined.R", 2.0),
            ("Far.Depth.Z", 3.0),
            ("Ä.1.Combined.A", 0.0),
            ("Ä.1.Combined.R", 1.0),
            ("Ä.1.Noisy Image.R", 0.0),
        ];
        assert_eq!(samples(&done), named(&expected));
        let path = folder.path().join("written.exr");
        done.write(&path).unwrap();
        assert_eq!(samples(&ExrImage::read(&path).unwrap()), named(&expected));
        let untouched = raw.clone().finished(&BTreeMap::new(), None, &[]);
        assert_eq!(samples(&untouched), samples(&raw));
    }

    #[test]
    fn passes_become_files_and_a_cryptomatte_stays_together() {
        let folder = tempfile::tempdir().unwrap();
        let all = [
            "A.Combined.R",
            "A.CryptoObject00.r",
            "A.CryptoObject01.r",
            "A.Depth.Z",
            "B.Combined.R",
        ];
        let (alone, passes) = picture(folder.path(), &all).split();
        assert_eq!(samples(&alone.unwrap()), named(&[("R", 0.0)]));
        assert_eq!(passes.keys().collect::<Vec<_>>(), ["A.CryptoObject", "A.Depth", "B.Combined"]);
        let matte = [("A.CryptoObject00.r", 1.0), ("A.CryptoObject01.r", 2.0)];
        assert_eq!(samples(&passes["A.CryptoObject"]), named(&matte));
        assert_eq!(samples(&passes["A.Depth"]), named(&[("Z", 3.0)]));
        let manifests = |name: &str| passes[name].image.layer_data[0].attributes.other.len();
        assert_eq!((manifests("A.CryptoObject"), manifests("A.Depth")), (1, 0));
        let composited = ["A.Combined.R", "Composite.Combined.R"];
        let (alone, passes) = picture(folder.path(), &composited).split();
        assert_eq!(samples(&alone.unwrap()), named(&[("R", 1.0)]));
        assert_eq!(passes.keys().collect::<Vec<_>>(), ["A.Combined"]);
        assert!(picture(folder.path(), &["R", "Z"]).split().0.is_none());
    }
}
