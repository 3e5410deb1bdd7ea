//! What training differentiates: every variable of the adapter, and nothing that is frozen.

mod common;

use std::collections::{BTreeMap, HashSet};

use candle_core::{Device, Tensor, Var};
use eqdiff::base::Base;
use eqdiff::base::texts::Texts;
use eqdiff::method::eqdiff::Customisation;
use eqdiff::method::eqdiff::data::Data;
use eqdiff::method::eqdiff::losses::training_losses;
use eqdiff::rng::{normal, stream};
use eqdiff::settings::Layers;
use eqdiff::subject::{self, Request};

#[test]
fn every_variable_has_a_gradient_and_nothing_frozen_has() {
    // candle walks the graph recursively, deeper than a test thread's stack
    let worker = std::thread::Builder::new().stack_size(256 << 20).spawn(check);
    worker.expect("a thread").join().expect("no panic").expect("a training step");
}

fn check() -> anyhow::Result<()> {
    let base = Base::load(&common::tiny_base(), true, &Device::Cpu, eqdiff::ops::Precision::F32)?;
    let subject = subject::find(&Request { subject: "dog", ..Request::default() })?;
    let (recipe, side) = (Layers::new()?.settings()?.recipe("dog"), base.side());
    let class_images = [subject.photos[0].square(side as u32)];
    let data = Data::encode(&base, &subject, &class_images, &recipe, side, || Ok(()))?;
    let initial = Customisation::initial(&base.unet, &base.text.token_embedding(5)?, true, true)?;
    // what begins at zero has no influence yet, and neither has what it multiplies; the bias opens the
    // fusion masks, which have a gradient between 0 and 1 only
    let moved = |name: &str, tensor: &Tensor| -> anyhow::Result<Var> {
        let noise = normal(tensor.shape(), &mut stream(0, name, 0), &Device::Cpu)?;
        let open = if name.ends_with("fuse.bias") { 0.5 } else { 0. };
        Ok(Var::from_tensor(&((tensor + noise * 0.05)? + open)?)?)
    };
    let variables = initial.iter().map(|(name, tensor)| Ok((name.clone(), moved(name, tensor)?)));
    let variables = variables.collect::<anyhow::Result<BTreeMap<String, Var>>>()?;
    let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let weights = Customisation::from_tensors(&base.unet, &tensors)?;
    let loss_settings = recipe.losses(data.latent_side(), eqdiff::ops::Keep::ALL);
    // one step may show one band only
    let mut largest: BTreeMap<&str, f32> = BTreeMap::new();
    for step in 0..4 {
        let batch = data.batch(&base, &recipe, step)?;
        let losses = training_losses(&base, &Texts::new(&base), &weights, &batch, &loss_settings)?.losses;
        let grads = losses.total.backward()?;
        for (name, var) in &variables {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{name} received no gradient"));
            let entry = largest.entry(name).or_default();
            *entry = entry.max(grad.abs()?.max_all()?.to_scalar()?);
        }
        // frozen weights are packed for the kernels, no tensors that candle could differentiate by; beside the variables, candle keeps gradients of constants that meet them: masks, text states, noise
        let trained: HashSet<_> = variables.values().map(|var| var.as_tensor().id()).collect();
        let others = grads.get_ids().filter(|id| !trained.contains(id)).filter_map(|id| grads.get_id(*id));
        let (kept, unet): (usize, usize) = (others.map(Tensor::elem_count).sum(), frozen_elements(&base)?);
        assert!(kept < unet, "gradients of {kept} numbers that nobody trains, beside {unet} frozen ones");
    }
    for (name, gradient) in largest {
        assert!(gradient > 0., "{name}: zero");
    }
    Ok(())
}

/// Numbers in the attention layers of the UNet, a part of what is frozen.
fn frozen_elements(base: &Base) -> anyhow::Result<usize> {
    let layers = base.unet.attentions().into_iter().map(|layer| &layer.parts);
    let maps = layers.flat_map(|parts| [&parts.to_q, &parts.to_k, &parts.to_v, &parts.to_out]);
    let counts = maps.map(|map| Ok(map.weight()?.elem_count())).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(counts.into_iter().sum())
}
