//! How a picture came about: the views of the paper's figure 5, the bands, and what each embedding draws alone.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Tensor;
use image::{DynamicImage, RgbImage};

use super::studio::Studio;
use super::{Observer, page};
use crate::adapter::Adapter;
use crate::base::Base;
use crate::base::texts::{Texts, placeholder_columns};
use crate::images;
use crate::method::eqdiff::fdte::split_bands;
use crate::method::eqdiff::watching::{OfBand, View, Watched};
use crate::method::eqdiff::{Band, Customisation, Watch};
use crate::method::{Learned, Pass, plain};
use crate::model::tokenizer::PLACEHOLDER;
use crate::report::heat::{Map, enlarged, ringed};
use crate::report::html::{Card, Figure, Page, check_ours};
use crate::rng;
use crate::sampling::{Drawn, Order, Style, draw, latent_size};
use crate::subject::{Photo, Subject};

/// Maps of the reference have at most so many queries: they are stored.
const QUERIES: usize = 1024;

/// Steps whose fusion mask is shown.
const STEPS: usize = 8;

/// Timestep of the photos whose maps stand beside their true masks: half of the way is noise.
const PHOTOS_AT: usize = 400;

/// Draws the picture of `order` again and writes a page of what happens meanwhile, beside its file.
///
/// # Errors
/// If the adapter is none of Equilibrated Diffusion, or something cannot be computed or written.
pub(super) fn explain(
    studio: &Studio,
    style: &Style,
    order: &Order,
    file: &Path,
    observer: &mut dyn Observer,
) -> Result<PathBuf> {
    let adapter = studio.adapter.as_ref().context("no adapter")?;
    let base = &*studio.base;
    let learned = Customisation::from_tensors(&base.unet, &adapter.tensors(base)?)
        .context("--explain: the adapter has nothing of Equilibrated Diffusion")?
        .turned(style.special.dial)?;
    let path = file.with_extension("html");
    check_ours(&path)?;
    let subject = page::subject(adapter)?;
    let explained = Explained { base, learned: &learned, style, order, subject: &subject };
    let mut page = Page::new(&order.prompt, "How this picture came about, step by step and part by part.");
    let passes = if learned.concept.high.is_some() { 3 } else { 1 };
    observer.begin("Explaining", passes * style.taken(), 0);
    let (picture, views) = explained.watched(observer)?;
    explained.attention(&mut page, &picture, &views)?;
    explained.photos(&mut page)?;
    explained.bands(&mut page, adapter, &picture)?;
    explained.embeddings(&mut page, &picture, observer)?;
    observer.end();
    page.write(&path)?;
    observer.info(&format!("Explained: {}", path.display()));
    Ok(path)
}

/// A picture and what it was drawn with.
struct Explained<'a> {
    base: &'a Base,
    learned: &'a Customisation,
    style: &'a Style<'a>,
    order: &'a Order,
    subject: &'a Subject,
}

impl Explained<'_> {
    /// Height and width of the latents.
    fn latents(&self) -> Result<(usize, usize)> {
        let (width, height) = latent_size(self.base, self.style.size)?;
        Ok((height, width))
    }

    /// The mask of the reference as one column of its features, [1, M] where features have a quarter of the side; full
    /// where the reference is a photo of the user's.
    fn column(&self) -> Result<Tensor> {
        let side = self.style.reference.map_or(0, |(photo, _)| photo.width() as usize) / self.base.vae.factor() / 4;
        let side = side.max(1);
        let of_photo = |photo: &&Photo| self.style.reference.is_some_and(|(own, _)| photo.square(own.width()) == *own);
        let values = match self.subject.photos.iter().find(of_photo) {
            Some(photo) => photo.subject_at(side).values,
            None => vec![1.; side * side],
        };
        Ok(Tensor::from_vec(values, (1, side * side), &self.base.device)?)
    }

    /// The picture, and what each of its passes showed.
    fn watched(&self, observer: &mut dyn Observer) -> Result<(RgbImage, Vec<View>)> {
        let (height, width) = self.latents()?;
        let tokens =
            [plain(self.base, self.style.negative)?, self.base.tokenizer.encode(&self.order.prompt, PLACEHOLDER)?];
        let column = self.column()?;
        let watch = Watch {
            queries: (height / 4) * (width / 4),
            reference_mask: Tensor::cat(&[&column, &column], 0)?,
            placeholder: placeholder_columns(&tokens, &self.base.device)?,
        };
        let looks = [1, 2, 4, 8].map(|f| (height / f) * (width / f)).into_iter().find(|n| *n <= QUERIES).unwrap_or(0);
        let watched = Watched::new(self.learned, watch, looks);
        let picture = self.drawn(&watched, observer)?;
        Ok((picture, watched.views()))
    }

    fn drawn(&self, learned: &dyn Learned, observer: &mut dyn Observer) -> Result<RgbImage> {
        let mut picture = None;
        draw(self.base, learned, self.style, std::slice::from_ref(self.order), |drawn| match drawn {
            Drawn::Steps(steps) => observer.go_on(steps),
            Drawn::Sketch(..) | Drawn::Lost(_) => Ok(()),
            Drawn::Picture(_, image) => {
                picture = Some(image);
                Ok(())
            }
        })?;
        picture.context("no picture was drawn")
    }

    /// Where reference attention looks, what is fused, and where `S*` is.
    fn attention(&self, page: &mut Page, picture: &RgbImage, views: &[View]) -> Result<()> {
        let (height, width) = self.latents()?;
        let size = picture.dimensions();
        if let Some((photo, _)) = self.style.reference.filter(|_| self.learned.has_reference()) {
            let fused = views.iter().map(|view| fused(view, (height, width))).collect::<Result<Vec<_>>>()?;
            page.section(
                "Where reference attention looks",
                "Some places of the picture that take most from the photo, and how much each place of the photo gives to \
                 them, over all steps.",
            );
            page.cards(&self.looks(picture, photo, views, &mean_of(&fused))?)?;
            page.section(
                "The fusion mask over the steps",
                "White where a place takes from the photo; mean over layers.",
            );
            let count = STEPS.min(fused.len());
            let at = |i: usize| i * (fused.len() - 1) / (count - 1).max(1);
            let shown: Vec<usize> = (0..count).map(at).collect();
            let step = |&i: &usize| figure(fused[i].gray(size), format!("step {} of {}", i + 1, fused.len()));
            page.pictures(&shown.iter().map(step).collect::<Vec<_>>())?;
            page.section(
                "The aggregated map",
                "How much of each place's attention falls on the subject of the photo (the first term of equation 10).",
            );
            let map = mean_of(&maps(views, |view| &view.on_subject, (height, width))?);
            page.pictures(&[
                figure(picture.clone(), "picture".into()),
                figure(map.heat(picture), "on the subject".into()),
            ])?;
        }
        page.section("Where S* is", "The attention that the placeholder gets, divided by its maximum, over all steps.");
        let map = mean_of(&maps(views, |view| &view.of_concept, (height, width))?).normalised();
        page.pictures(&[
            figure(picture.clone(), "picture".into()),
            figure(map.heat(picture), format!("{PLACEHOLDER} in it")),
        ])
    }

    /// For some places of the picture far from each other, which take most from the photo: where they look.
    fn looks(&self, picture: &RgbImage, photo: &RgbImage, views: &[View], fused: &Map) -> Result<Vec<Card<'static>>> {
        let mut mean: Option<Tensor> = None;
        let mut count = 0.;
        for view in views {
            let Some(map) = view.looks.mean()? else { continue };
            let map = map.narrow(0, map.dim(0)? - 1, 1)?.squeeze(0)?;
            mean = Some(match mean {
                Some(sum) => (sum + map)?,
                None => map,
            });
            count += 1.;
        }
        let Some(mean) = mean else { return Ok(Vec::new()) };
        let rows = (mean / count)?.to_vec2::<f32>()?;
        let columns = (rows.len() as f64 * fused.width as f64 / fused.height as f64).sqrt().round() as usize;
        let place = |i: usize| {
            let (x, y) = (i % columns, i / columns);
            ((x as f32 + 0.5) / columns as f32, (y as f32 + 0.5) / (rows.len() / columns) as f32)
        };
        let weight = |i: usize| {
            let (x, y) = place(i);
            fused.values[(y * fused.height as f32) as usize * fused.width + (x * fused.width as f32) as usize]
        };
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)));
        let mut chosen: Vec<usize> = Vec::new();
        for i in order {
            let ((x, y), far) =
                (place(i), |j: &usize| (place(*j).0 - place(i).0).hypot(place(*j).1 - place(i).1) > 0.22);
            let inside = (0.08..0.92).contains(&x) && (0.08..0.92).contains(&y);
            if inside && chosen.iter().all(far) {
                chosen.push(i);
            }
            if chosen.len() == 4 {
                break;
            }
        }
        let side = (rows.first().map_or(0, Vec::len) as f64).sqrt() as usize;
        let card = |(n, &i): (usize, &usize)| {
            let map = Map { values: rows[i].clone(), width: side, height: side }.normalised();
            let pictures = vec![
                figure(ringed(&enlarged(picture), place(i)), "a place of the picture".into()),
                figure(map.heat(&enlarged(photo)), "where it looks in the photo".into()),
            ];
            Card { title: format!("Place {}", n + 1), pictures }
        };
        Ok(chosen.iter().enumerate().map(card).collect())
    }

    /// As in training: other photos, noised, beside their true masks (figure 5 b).
    fn photos(&self, page: &mut Page) -> Result<()> {
        let Some((reference, class)) = self.style.reference.filter(|_| self.learned.has_reference()) else {
            return Ok(());
        };
        let (base, side) = (self.base, reference.width() as usize);
        let latent = side / base.vae.factor();
        let texts = Texts::new(base);
        let prompt = base.tokenizer.encode(&format!("photo of a {PLACEHOLDER} {class}"), PLACEHOLDER)?;
        let class_text = texts.plain(&plain(base, &format!("photo of a {class}"))?)?;
        let latents = |image: &RgbImage| -> Result<Tensor> {
            let posterior = base.vae.encode(&images::to_tensor(image, &base.device)?)?;
            Ok((posterior.mean * base.vae.config.scaling_factor)?)
        };
        let known = latents(reference)?;
        let noise = rng::normal(known.shape(), &mut rng::stream(0, "explain", 0), &base.device)?;
        let mut recorder = self.learned.recorder().context("no reference attention")?;
        let at = [PHOTOS_AT];
        base.unet.forward(&base.scheduler.add_noise(&known, &noise, &at)?, &at, &class_text, recorder.as_mut())?;
        let seen = recorder.seen();
        let text = self.learned.text(base, &texts, &format!("photo of a {PLACEHOLDER} {class}"))?;
        let mut cards = Vec::new();
        for photo in self.subject.photos.iter().filter(|photo| photo.square(side as u32) != *reference) {
            let image = photo.square(side as u32);
            let watch = Watch {
                queries: (latent / 4).pow(2),
                reference_mask: self.column()?,
                placeholder: placeholder_columns(std::slice::from_ref(&prompt), &base.device)?,
            };
            let watched = Watched::new(self.learned, watch, 0);
            {
                let mut attention = watched.attention(Pass { seen: Some(&seen), ..Pass::default() });
                let noisy = base.scheduler.add_noise(&latents(&image)?, &noise, &at)?;
                base.unet.forward(&noisy, &at, &text, attention.as_mut())?;
            }
            let views = watched.views();
            let map = mean_of(&maps(&views, |view| &view.on_subject, (latent, latent))?);
            let fused = mean_of(&views.iter().map(|view| fused(view, (latent, latent))).collect::<Result<Vec<_>>>()?);
            let mask = DynamicImage::ImageLuma8(photo.mask.clone()).to_rgb8();
            let size = image.dimensions();
            let pictures = vec![
                figure(image, "photo".into()),
                figure(mask, "true mask".into()),
                figure(map.gray(size), "aggregated map".into()),
                figure(fused.gray(size), "fusion mask".into()),
            ];
            cards.push(Card {
                title: photo.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                pictures,
            });
        }
        let text = format!(
            "The other photos, noised to timestep {PHOTOS_AT} as in training: their true masks, how much of each place's \
             attention falls on the subject of the reference, and the fusion mask."
        );
        page.section("Beside the true masks", &text);
        page.cards(&cards)
    }

    fn bands(&self, page: &mut Page, adapter: &Adapter, picture: &RgbImage) -> Result<()> {
        let fdte = &adapter.manifest.settings.fdte;
        let card = |title: &str, image: &RgbImage| {
            let split = fdte.split(image.width().min(image.height()) as usize);
            let (low, high) = split_bands(&images::to_picture(image), &split);
            let figures = [
                ("as it is", image.clone()),
                ("low band", images::from_picture(&low)),
                ("high band", images::from_picture(&high)),
            ];
            let pictures = figures.map(|(caption, image)| figure(image, caption.into())).into();
            Card { title: title.into(), pictures }
        };
        let photo =
            self.subject.photos.first().context("the adapter has no photos")?.square(adapter.manifest.side as u32);
        page.section("The bands", "What FDTE sees of a photo in training, and of the picture.");
        page.cards(&[card("photo", &photo), card("picture", picture)])
    }

    /// What each embedding draws alone, from the same noise.
    fn embeddings(&self, page: &mut Page, sum: &RgbImage, observer: &mut dyn Observer) -> Result<()> {
        if self.learned.concept.high.is_none() {
            return Ok(());
        }
        let mut pictures = Vec::new();
        for (band, caption) in [(Band::Low, "S_LF alone"), (Band::High, "S_HF alone")] {
            pictures.push(figure(self.drawn(&OfBand(self.learned, band), observer)?, caption.into()));
        }
        pictures.push(figure(sum.clone(), "their sum, S*".into()));
        page.section("What each embedding draws", "The same prompt from the same noise.");
        page.pictures(&pictures)
    }
}

fn figure(image: RgbImage, caption: String) -> Figure<'static> {
    Figure { image: Cow::Owned(enlarged(&image)), caption, note: String::new() }
}

/// The mean fusion mask of a pass over its layers, at the latents' size.
fn fused(view: &View, (height, width): (usize, usize)) -> Result<Map> {
    let layers = view.fusion_masks.values().map(|mask| {
        let map = map_of(&mask.squeeze(2)?, (height, width))?;
        let level =
            |i: usize| map.values[(i / width * map.height / height) * map.width + i % width * map.width / width];
        Ok(Map { values: (0..height * width).map(level).collect(), width, height })
    });
    let layers = layers.collect::<Result<Vec<_>>>()?;
    Ok(if layers.is_empty() { Map { values: vec![0.; height * width], width, height } } else { mean_of(&layers) })
}

/// What one kind of map shows in each pass that has it.
fn maps(
    views: &[View],
    of: impl Fn(&View) -> &crate::method::eqdiff::customised::MeanMap,
    size: (usize, usize),
) -> Result<Vec<Map>> {
    views.iter().filter_map(|view| of(view).mean().transpose()).map(|map| map_of(&map?, size)).collect()
}

/// The last sample of [B, N] as rows; N divides the latents' height and width alike.
fn map_of(values: &Tensor, (height, width): (usize, usize)) -> Result<Map> {
    let last = values.dim(0)? - 1;
    let values = values.get(last)?.to_vec1::<f32>()?;
    let factor = ((height * width) as f64 / values.len() as f64).sqrt().round().max(1.) as usize;
    Ok(Map { values, width: width / factor, height: height / factor })
}

/// The mean of maps of one size; without any, one that is 0.
fn mean_of(maps: &[Map]) -> Map {
    let Some(first) = maps.first() else { return Map { values: vec![0.], width: 1, height: 1 } };
    let mean = |i: usize| maps.iter().map(|map| map.values[i]).sum::<f32>() / maps.len() as f32;
    Map { values: (0..first.values.len()).map(mean).collect(), ..*first }
}
