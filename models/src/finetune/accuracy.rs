//! How often a search finds the right text first.
//!
//! Owns the measure and what counts as right. It does not choose the pairs.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use forebay::Result;

use super::loss::project;
use super::vectors::Vectors;

/// The share of pairs whose anchor is nearer to its positive than to any positive of the other pairs, from 0 to 1 (accuracy
/// at 1). Of an anchor that stands in several pairs, the other pairs' positives are right too, so they are no rivals; nor
/// is the anchor itself, where it is another's positive. A rival at the same distance counts as nearer. `None` where there are no pairs.
pub(super) fn accuracy(pairs: &[(u32, u32)], vectors: &Vectors, delta: &Tensor) -> Result<Option<f64>> {
    if pairs.is_empty() {
        return Ok(None);
    }
    let columns: BTreeSet<u32> = pairs.iter().map(|(_, positive)| *positive).collect();
    let mut right: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (anchor, positive) in pairs {
        right.entry(*anchor).or_default().insert(*positive);
    }
    let rows = vectors.rows(right.keys().copied(), delta.device())?;
    let found = vectors.rows(columns.iter().copied(), delta.device())?;
    let cosines = project(&rows, delta)?.matmul(&project(&found, delta)?.t()?)?.to_vec2::<f32>()?;
    let cosines: BTreeMap<u32, Vec<f32>> = right.keys().copied().zip(cosines).collect();
    // What is not a number is no nearer than anything.
    let nearer = |cosine: &f32, own: f32| cosine.partial_cmp(&own) != Some(Ordering::Less);
    let hit = |(anchor, positive): &(u32, u32)| {
        let (right, cosines) = (&right[anchor], &cosines[anchor]);
        let each = || columns.iter().zip(cosines);
        let own = each().find(|(column, _)| *column == positive).map_or(f32::MIN, |(_, cosine)| *cosine);
        !each().any(|(column, cosine)| nearer(cosine, own) && column != anchor && !right.contains(column))
    };
    Ok(Some(pairs.iter().filter(|pair| hit(pair)).count() as f64 / pairs.len() as f64))
}
