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
/// What the picture of the renderer is called when a denoised one is beside it.
const NOISY: &str = "Noisy Image";
/// The passes of a Cryptomatte, which only make sense together, and the attributes that tell whose they are.
const CRYPTOMATTE: &str = "Crypto";
const CRYPTOMATTE_ATTRIBUTES: &str = "cryptomatte/";

/// The parts of a channel's name.
struct Name<'a> {
    layer: &'a str,
    pass: &'a str,
    channel: &'a str,
}

impl<'a> Name<'a> {
    /// `None` if it is not a channel of a pass of a layer.
    fn of(text: &'a str) -> Option<Self> {
        let (rest, channel) = text.rsplit_once('.')?;
        let (layer, pass) = rest.rsplit_once('.')?;
        Some(Self { layer, pass, channel })
    }
}

/// A name as Blender writes it, in UTF-8.
fn text_of(name: &Text) -> String {
    String::from_utf8_lossy(name.as_slice()).into_owned()
}

fn text(name: &str) -> Text {
    Text::from_slice_unchecked(name.as_bytes())
}

impl ExrImage {
    /// Makes of a rendered multilayer picture what Blender's own multilayer file holds: the pictures in `denoised`, by
    /// their layers, in place of the noisy ones, which stay as `Noisy Image`; the compositor's result; and nothing
    /// whose name begins as one of `dropped` does.
    pub(crate) fn finished(
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

    /// The picture alone, and each pass beside it by `LAYER.PASS`: the compositor's result if there is one, otherwise
    /// that of the first layer. The other layers' pictures are passes, too.
    pub(crate) fn split(&self) -> (Option<Self>, BTreeMap<String, Self>) {
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
