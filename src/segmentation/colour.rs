//! Colours as mixtures of normal distributions, as GrabCut has them (Rother et al. 2004).

/// A colour, or a difference of two.
pub(super) type Colour = [f64; 3];

/// Distributions of a mixture.
const PARTS: usize = 8;

/// Rounds of sorting colours to the nearest part and moving the parts.
const ROUNDS: usize = 6;

/// Added to the variances, in squared levels of 0 to 255: a plain surface has noise too.
const NOISE: f64 = 25.;

/// One pixel in a hundred may have any colour: what such a one costs, in nats. One odd pixel decides nothing.
pub(super) const ODD: f64 = 18.5;

/// One normal distribution.
#[derive(Clone)]
struct Part {
    /// Its share of the mixture.
    share: f64,
    mean: Colour,
    /// The inverse of the covariance: xx, xy, xz, yy, yz, zz.
    inverse: [f64; 6],
    /// Half the logarithm of the covariance's determinant.
    log_spread: f64,
}

impl Part {
    /// That of weighted colours.
    fn of(colours: impl Iterator<Item = (Colour, f64)> + Clone, share: f64) -> Self {
        let total: f64 = colours.clone().map(|(_, weight)| weight).sum::<f64>().max(f64::MIN_POSITIVE);
        let mut mean = [0.; 3];
        for (colour, weight) in colours.clone() {
            (0..3).for_each(|i| mean[i] += weight * colour[i] / total);
        }
        let mut spread = [NOISE, 0., 0., NOISE, 0., NOISE];
        for (colour, weight) in colours {
            let [x, y, z] = minus(colour, mean);
            for (sum, product) in spread.iter_mut().zip([x * x, x * y, x * z, y * y, y * z, z * z]) {
                *sum += weight * product / total;
            }
        }
        let [xx, xy, xz, yy, yz, zz] = spread;
        let minors = [yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy];
        let determinant = xx * minors[0] + xy * minors[1] + xz * minors[2];
        let inverse = [minors[0], minors[1], minors[2], xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy];
        Self { share, mean, inverse: inverse.map(|minor| minor / determinant), log_spread: determinant.ln() / 2. }
    }

    /// The negative logarithm of its density, up to the constant that all have.
    fn cost(&self, colour: Colour) -> f64 {
        let [x, y, z] = minus(colour, self.mean);
        let [xx, xy, xz, yy, yz, zz] = self.inverse;
        let square = x * (xx * x + 2. * (xy * y + xz * z)) + y * (yy * y + 2. * yz * z) + zz * z * z;
        square / 2. + self.log_spread
    }
}

/// A mixture of normal distributions.
#[derive(Clone)]
pub(super) struct Mixture(Vec<Part>);

impl Mixture {
    /// That of weighted colours; the same for the same colours.
    pub(super) fn of(colours: &[(Colour, f64)]) -> Self {
        let mut means = spread_out(colours);
        let mut nearest = vec![0; colours.len()];
        for _ in 0..ROUNDS {
            for (place, &(colour, _)) in nearest.iter_mut().zip(colours) {
                *place = closest(&means, colour).0;
            }
            for (i, mean) in means.iter_mut().enumerate() {
                let own = colours.iter().zip(&nearest).filter(|(_, place)| **place == i).map(|(colour, _)| colour);
                let total: f64 = own.clone().map(|(_, weight)| weight).sum();
                if total > 0. {
                    let sum = own.fold([0.; 3], |sum, (c, w)| std::array::from_fn(|k| sum[k] + w * c[k]));
                    *mean = sum.map(|value| value / total);
                }
            }
        }
        let all: f64 = colours.iter().map(|(_, weight)| weight).sum::<f64>().max(f64::MIN_POSITIVE);
        let part = |i: usize| {
            let own = colours.iter().zip(&nearest).filter(move |(_, place)| **place == i).map(|(colour, _)| *colour);
            let share = own.clone().map(|(_, weight)| weight).sum::<f64>() / all;
            (share > 0.).then(|| Part::of(own, share))
        };
        Self((0..means.len()).filter_map(part).collect())
    }

    /// What a colour costs here, in nats.
    pub(super) fn cost(&self, colour: Colour) -> f64 {
        let cheapest = self.0.iter().map(|part| part.cost(colour) - part.share.ln());
        cheapest.fold(ODD, f64::min)
    }

    /// The part that a colour belongs to.
    fn place(&self, colour: Colour) -> Option<usize> {
        let costs = self.0.iter().enumerate().map(|(i, part)| (i, part.cost(colour) - part.share.ln()));
        costs.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }

    /// The same with the shares of what `groups` of weighted colours have in common: the geometric mean of their shares.
    pub(super) fn common(&self, groups: &[Vec<(Colour, f64)>]) -> Self {
        // a share that no group lacks altogether: the parts come from somewhere
        const LEAST: f64 = 2e-3;
        let mut logs = vec![0.; self.0.len()];
        for group in groups {
            let mut shares = vec![0.; self.0.len()];
            let all: f64 = group.iter().map(|(_, weight)| weight).sum::<f64>().max(f64::MIN_POSITIVE);
            for &(colour, weight) in group {
                if let Some(place) = self.place(colour) {
                    shares[place] += weight / all;
                }
            }
            logs.iter_mut().zip(shares).for_each(|(log, share)| *log += share.max(LEAST).ln());
        }
        let means: Vec<f64> = logs.iter().map(|log| (log / groups.len().max(1) as f64).exp()).collect();
        let all: f64 = means.iter().sum();
        let parts = self.0.iter().zip(means).map(|(part, mean)| Part { share: mean / all, ..part.clone() });
        Self(parts.collect())
    }
}

/// How much rather a colour is one of `subject` than of `background`, in nats.
pub(super) fn rather(subject: &Mixture, background: &Mixture, colour: Colour) -> f64 {
    background.cost(colour) - subject.cost(colour)
}

/// Means to start from: the colour nearest to the mean of all, then again and again the one farthest from those chosen,
/// by weight.
fn spread_out(colours: &[(Colour, f64)]) -> Vec<Colour> {
    let Some(&(first, _)) = colours.first() else { return vec![[0.; 3]] };
    let mut means = vec![first];
    let mut distance: Vec<f64> = colours.iter().map(|&(colour, _)| square(minus(colour, first))).collect();
    while means.len() < PARTS {
        let far = |i: &usize| colours[*i].1.sqrt() * distance[*i];
        let Some(next) = (0..colours.len()).max_by(|a, b| far(a).total_cmp(&far(b))).filter(|i| far(i) > 0.) else {
            break;
        };
        let mean = colours[next].0;
        means.push(mean);
        for (distance, &(colour, _)) in distance.iter_mut().zip(colours) {
            *distance = distance.min(square(minus(colour, mean)));
        }
    }
    means
}

fn closest(means: &[Colour], colour: Colour) -> (usize, f64) {
    let distances = means.iter().enumerate().map(|(i, &mean)| (i, square(minus(colour, mean))));
    distances.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.))
}

fn minus(a: Colour, b: Colour) -> Colour {
    std::array::from_fn(|i| a[i] - b[i])
}

pub(super) fn square(colour: Colour) -> f64 {
    colour.iter().map(|value| value * value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(colour: Colour, count: usize) -> impl Iterator<Item = (Colour, f64)> {
        (0..count).map(move |i| ([colour[0] + (i % 3) as f64, colour[1] - (i % 2) as f64, colour[2]], 1.))
    }

    #[test]
    fn colours_belong_where_they_came_from() {
        let (red, green, blue) = ([200., 20., 20.], [30., 160., 40.], [20., 30., 220.]);
        let subject = Mixture::of(&around(red, 50).chain(around(blue, 20)).collect::<Vec<_>>());
        let background = Mixture::of(&around(green, 90).collect::<Vec<_>>());
        for (colour, sign) in [(red, 1.), (blue, 1.), (green, -1.)] {
            assert!(rather(&subject, &background, colour) * sign > 5., "{colour:?}");
        }
        // unlike both: nothing is known
        assert_eq!(rather(&subject, &background, [255., 255., 0.]), 0.);
    }

    /// The density of one part is that of the normal distribution with the colours' covariance.
    #[test]
    fn a_part_is_a_normal_distribution() {
        let colours: Vec<_> = [[0., 0., 0.], [4., 2., 0.], [0., 6., 2.], [4., 8., 6.]].map(|c| (c, 1.)).to_vec();
        let part = Part::of(colours.iter().copied(), 1.);
        assert_eq!(part.mean, [2., 4., 2.]);
        // covariance by hand: [4, 2, 2], [2, 10, 7], [2, 7, 6], and the noise
        let [xx, yy, zz] = [4. + NOISE, 10. + NOISE, 6. + NOISE];
        let determinant: f64 = xx * (yy * zz - 49.) - 2. * (2. * zz - 14.) + 2. * (14. - 2. * yy);
        assert!((part.log_spread - determinant.ln() / 2.).abs() < 1e-12);
        let at = part.cost([3., 4., 2.]) - part.log_spread;
        assert!((at - (yy * zz - 49.) / determinant / 2.).abs() < 1e-12);
    }

    #[test]
    fn what_all_share_weighs_more() {
        let (red, green, blue) = ([200., 20., 20.], [30., 160., 40.], [20., 30., 220.]);
        let group = |other| around(red, 50).chain(around(other, 50)).collect::<Vec<_>>();
        let groups = [group(green), group(blue)];
        let mixture = Mixture::of(&groups.concat());
        let common = mixture.common(&groups);
        let gain = |colour| mixture.cost(colour) - common.cost(colour);
        assert!(gain(red) > 0.3 && gain(green) < -0.5 && gain(blue) < -0.5, "{} {}", gain(red), gain(green));
    }
}
