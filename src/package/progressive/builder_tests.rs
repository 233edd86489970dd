use mp4_atom::{Moov, StszSamples, Trak};
use proptest::prelude::*;

use super::*;
use crate::package::{
    Init,
    progressive::testing::{frames, head, info, inits, moov, samples},
    testing::{aac, avc},
};

/// What a track of the file says: per sample, decode time, presentation time in the movie and size.
fn told(moov: &Moov, index: usize) -> Vec<(i64, i64)> {
    let trak = &moov.trak[index];
    let stbl = &trak.mdia.minf.stbl;
    let edits = edits(trak);
    let empty: i64 = edits.iter().filter(|edit| edit.1.is_none()).map(|edit| edit.0 as i64).sum();
    let media = edits.last().unwrap().1.unwrap() as i64;
    let scale = |ticks: i64| rescale(ticks, trak.mdia.mdhd.timescale, moov.mvhd.timescale);
    let durations = stbl.stts.entries.iter().flat_map(|run| vec![run.sample_delta; run.sample_count as usize]);
    let offsets = stbl.ctts.iter().flat_map(|ctts| &ctts.entries);
    let offsets = offsets.flat_map(|run| vec![run.sample_offset; run.sample_count as usize]);
    let mut time = 0;
    let times = durations.zip(offsets.chain(std::iter::repeat(0))).map(|(duration, offset)| {
        time += i64::from(duration);
        let time = time - i64::from(duration);
        (time, empty + scale(time + offset - media))
    });
    times.collect()
}

fn edits(trak: &Trak) -> Vec<(u64, Option<u64>)> {
    let elst = trak.edts.as_ref().unwrap().elst.as_ref().unwrap();
    elst.entries.iter().map(|edit| (edit.segment_duration, edit.media_time)).collect()
}

fn shown(moov: &Moov, index: usize) -> Vec<i64> {
    told(moov, index).into_iter().map(|(_, shown)| shown).collect()
}

fn finished(builder: Builder) -> Moov {
    moov(&head(&builder.finish().unwrap()))
}

/// Video alone, of one chunk after another.
fn video(chunks: impl IntoIterator<Item = Samples>) -> Moov {
    let [init, _] = inits();
    let mut builder = Builder::new(Bounds::Whole);
    for (chunk, samples) in (0..).zip(chunks) {
        builder.add(0, chunk, &init, samples).unwrap();
    }
    finished(builder)
}

#[test]
fn offsets_are_raised_and_the_edit_takes_it_back() {
    let moov = video([samples([(900, 900, 10), (910, 930, 10), (920, 910, 10), (930, 920, 10)])]);
    assert_eq!(told(&moov, 0), [(0, 0), (10, 30), (20, 10), (30, 20)]);
    assert_eq!(edits(&moov.trak[0]), [(40, Some(10))]);
    let stbl = &moov.trak[0].mdia.minf.stbl;
    assert!(stbl.ctts.as_ref().unwrap().entries.iter().all(|run| run.sample_offset >= 0));
    assert_eq!(stbl.stss.as_ref().unwrap().entries, [1]);
    assert_eq!((moov.mvhd.duration, moov.trak[0].tkhd.duration, moov.trak[0].mdia.mdhd.duration), (40, 40, 40));
    assert_eq!((moov.mvhd.next_track_id, moov.trak[0].tkhd.enabled, moov.trak[0].tkhd.in_movie), (2, true, true));
}

#[test]
fn a_hole_is_filled_by_the_sample_before_it() {
    let moov = video([frames(0, 10, 3), frames(100, 10, 2)]);
    assert_eq!(shown(&moov, 0), [0, 10, 20, 100, 110]);
    assert_eq!((moov.mvhd.duration, moov.trak[0].mdia.mdhd.duration), (120, 120));
}

#[test]
fn an_overlap_moves_only_what_it_must() {
    // A frame and a half early.
    let moov = video([frames(0, 10, 4), frames(25, 10, 3)]);
    assert_eq!(shown(&moov, 0), [0, 10, 20, 24, 25, 35, 45]);
    // With hardly any room, the rest has its own time all the same.
    let moov = video([frames(0, 10, 4), frames(2, 10, 3), frames(32, 10, 2)]);
    let all = shown(&moov, 0);
    // The first picture, and with it the movie, starts two ticks early.
    assert_eq!(all[all.len() - 2..], [34, 44]);
    assert!(all.windows(2).all(|two| two[0] < two[1]));
}

#[test]
fn chunks_at_fault_are_refused_and_the_rest_goes_on() {
    let [picture, sound] = inits();
    let mut builder = Builder::new(Bounds::Whole);
    let mut no_key = frames(0, 10, 2);
    no_key.0[0].sync = false;
    let leap = i64::from(u32::MAX) + 1;
    assert_eq!(builder.add(2, 0, &picture, frames(0, 10, 2)), Err(Refused::WrongTrack));
    assert_eq!(builder.add(1, 0, &picture, frames(0, 10, 2)), Err(Refused::WrongTrack));
    assert_eq!(builder.add(0, 0, &picture, no_key), Err(Refused::NotKey));
    builder.add(0, 0, &picture, frames(50, 10, 2)).unwrap();
    assert_eq!(builder.add(0, 1, &sound, frames(100, 10, 2)), Err(Refused::WrongTrack));
    assert_eq!(builder.add(0, 1, &picture, frames(50, 10, 2)), Err(Refused::Backwards { at: 50, last: 50 }));
    let ticks = leap + 1;
    assert_eq!(builder.add(0, 1, &picture, frames(60 + ticks, 10, 2)), Err(Refused::Leap { ticks }));
    builder.add(0, 1, &picture, Samples::default()).unwrap();
    builder.add(0, 2, &picture, frames(60 + leap - 1, 10, 1)).unwrap();
    assert_eq!(shown(&finished(builder), 0), [0, 10, 10 + leap - 1]);

    let mut alone = Builder::new(Bounds::Whole);
    alone.add(0, 0, &sound, frames(0, 1024, 2)).unwrap();
    assert_eq!(alone.add(1, 0, &sound, frames(0, 1024, 2)), Err(Refused::WrongTrack));
    for (track, init) in [(1, &sound), (0, &picture)] {
        let mut builder = Builder::new(Bounds::Clip { from: 0, to: 0 });
        builder.add(track, 0, init, frames(0, 10, 2)).unwrap();
        assert_eq!(builder.finish().unwrap_err(), Empty);
    }
    assert_eq!(Builder::new(Bounds::Whole).finish().unwrap_err(), Empty);
}

/// Both tracks, the audio from a time (in samples) on; 300 pictures of 3000 ticks from 90,000 on.
fn both(bounds: Bounds, audio: impl IntoIterator<Item = Samples>) -> Moov {
    let [picture, sound] = inits();
    let mut builder = Builder::new(bounds);
    let mut audio = audio.into_iter();
    for k in 0..10 {
        builder.add(0, k, &picture, frames(90_000 * (1 + k as i64), 3000, 30)).unwrap();
        if let Some(samples) = audio.next() {
            builder.add(1, k, &sound, samples).unwrap();
        }
    }
    for samples in audio {
        builder.add(1, 10, &sound, samples).unwrap();
    }
    finished(builder)
}

#[test]
fn late_audio_waits_in_an_empty_edit() {
    // 100 samples, which are 187.5 ticks, after the first picture.
    let moov = both(Bounds::Whole, [frames(48_100, 1024, 40)]);
    assert_eq!(edits(&moov.trak[1]), [(188, None), (40 * 1920, Some(0))]);
    assert_eq!(edits(&moov.trak[0]), [(900_000, Some(0))]);
    assert_eq!(moov.mvhd.duration, 900_000);
}

#[test]
fn early_audio_is_trimmed_by_its_edit() {
    // Ten frames before the first picture, which is shown 100 samples after the start of the eleventh.
    let moov = both(Bounds::Whole, [frames(48_000 - 100 - 10 * 1024, 1024, 40)]);
    // One frame is kept to decode the eleventh.
    assert_eq!(told(&moov, 1).len(), 31);
    assert_eq!(edits(&moov.trak[1]), [(30 * 1920 - 187, Some(1024 + 100))]);
    // None is needed where audio starts in the middle.
    let moov = both(Bounds::Whole, [frames(48_000 - 100, 1024, 40)]);
    assert_eq!((told(&moov, 1).len(), edits(&moov.trak[1])), (40, vec![(40 * 1920 - 187, Some(100))]));
}

#[test]
fn audio_goes_on_after_the_last_picture_of_the_whole() {
    let moov = both(Bounds::Whole, [frames(48_000, 1000, 600)]);
    assert_eq!(edits(&moov.trak[1]), [(600_000 * 90 / 48, Some(0))]);
    assert_eq!((moov.mvhd.duration, moov.trak[0].tkhd.duration), (1_125_000, 900_000));
}

#[test]
fn clips_are_cut_to_the_picture_and_the_sample() {
    let audio = || (0..10).map(|k| frames(48_000 * (1 + k), 1000, 48));
    // From the middle of a picture's time to that of another: 183,000 to 366,000.
    let moov = both(Bounds::Clip { from: 180_001, to: 363_001 }, audio());
    assert_eq!(edits(&moov.trak[0]), [(183_000, Some(3000))]);
    assert_eq!(told(&moov, 0).len(), 62);
    // 97,600 to 195,200: frames from 97,000 on, and one before.
    assert_eq!(edits(&moov.trak[1]), [(183_000, Some(1600))]);
    assert_eq!(told(&moov, 1).len(), 1 + 99);
    let chunks = |index: usize| moov.trak[index].mdia.minf.stbl.stco.as_ref().unwrap().entries.len();
    assert_eq!((chunks(0), chunks(1)), (3, 3));

    // Nothing of the audio.
    let moov = both(Bounds::Clip { from: 180_000, to: 270_000 }, [frames(480_000, 1000, 48)]);
    assert_eq!(moov.trak.len(), 1);
    // Audio that starts within.
    let moov = both(Bounds::Clip { from: 180_000, to: 270_000 }, [frames(96_480, 1000, 48)]);
    assert_eq!(edits(&moov.trak[1]), [(900, None), (90_000 - 900, Some(0))]);
    // A hole where the clip starts: the frame before it is no part of what is heard.
    let moov = both(Bounds::Clip { from: 180_000, to: 270_000 }, [frames(90_000, 1000, 3), frames(96_480, 1000, 48)]);
    assert_eq!(edits(&moov.trak[1]), [(900, None), (90_000 - 900, Some(4480))]);
}

#[test]
fn audio_alone_is_cut_to_the_sample() {
    let [_, sound] = inits();
    let file = |bounds| {
        let mut builder = Builder::new(bounds);
        for k in 0..10 {
            builder.add(0, k as u64, &sound, frames(48_000 * k, 1000, 48)).unwrap();
        }
        builder.finish().map(|file| moov(&head(&file)))
    };
    let whole = file(Bounds::Whole).unwrap();
    assert_eq!((edits(&whole.trak[0]), whole.mvhd.timescale), (vec![(480_000, Some(0))], 48_000));
    // 50,000.5 to 99,999.5 samples: 50,001 to 99,999, with the frame before that of 50,000.
    let clip = file(Bounds::Clip { from: 93_751, to: 187_499 }).unwrap();
    assert_eq!(edits(&clip.trak[0]), [(49_999, Some(1001))]);
    assert_eq!(told(&clip, 0).len(), 51);
    assert_eq!(file(Bounds::Clip { from: 93_751, to: 93_751 }).err(), Some(Empty));
    assert_eq!(file(Bounds::Clip { from: 93_751, to: 0 }).err(), Some(Empty));
    assert_eq!(file(Bounds::Clip { from: i64::MAX, to: i64::MAX }).err(), Some(Empty));
    assert_eq!(file(Bounds::Clip { from: i64::MIN, to: i64::MAX }).unwrap(), whole);
}

/// Another sample rate after a reconnect: times are converted, each on its own.
#[test]
fn another_timescale_keeps_the_time() {
    let [_, sound] = inits();
    let other = info(&Init::audio(&aac(44_100, 1024)));
    let mut builder = Builder::new(Bounds::Whole);
    builder.add(0, 0, &sound, frames(0, 1000, 48)).unwrap();
    builder.add(0, 1, &other, frames(44_100, 1024, 1000)).unwrap();
    let moov = finished(builder);
    let all = shown(&moov, 0);
    assert_eq!(all.len(), 1048);
    for (i, at) in (0..).zip(&all[48..]) {
        assert_eq!(*at, rescale(44_100 + i * 1024, 44_100, 48_000));
    }
    assert_eq!(moov.trak[0].mdia.minf.stbl.stsd.codecs.len(), 2);
}

#[test]
fn equal_inits_share_an_entry() {
    let (one, two) = (Init::video(&avc()), Init::video(&crate::media::VideoConfig { sar: (4, 3), ..avc() }));
    let mut builder = Builder::new(Bounds::Whole);
    for (k, init) in (0..).zip([&one, &one, &two, &one, &one]) {
        builder.add(0, k as u64, &info(init), frames(k * 100, 10, 10)).unwrap();
    }
    let moov = finished(builder);
    let stbl = &moov.trak[0].mdia.minf.stbl;
    assert_eq!(stbl.stsd.codecs.len(), 2);
    let spans = stbl.stsc.entries.iter().map(|e| (e.first_chunk, e.samples_per_chunk, e.sample_description_index));
    assert_eq!(spans.collect::<Vec<_>>(), [(1, 10, 1), (3, 10, 2), (4, 10, 1)]);
    assert_eq!(stbl.stsz.samples, StszSamples::Different { sizes: vec![1; 50] });
    assert_eq!(moov.trak[0].tkhd.width.integer(), 1280);
}

#[test]
fn inits_of_chunks_that_are_not_needed_leave_no_entry() {
    let large = info(&Init::video(&crate::media::VideoConfig { width: 1920, ..avc() }));
    let mut builder = Builder::new(Bounds::Clip { from: 100, to: 150 });
    for (k, init) in (0..).zip([&large, &inits()[0], &large]) {
        builder.add(0, k as u64, init, frames(k * 100, 10, 10)).unwrap();
    }
    let moov = finished(builder);
    assert_eq!((moov.trak[0].mdia.minf.stbl.stsd.codecs.len(), moov.trak[0].tkhd.width.integer()), (1, 1280));
    assert_eq!(shown(&moov, 0), [0, 10, 20, 30, 40]);
}

proptest! {
    /// Chunks of any times, in any order, make a file whose times go up and whose bytes are all accounted for.
    #[test]
    fn any_chunks_make_a_file(
        chunks in prop::collection::vec(
            (
                0usize..2,
                prop_oneof![8 => 0i64..3000, 1 => Just(TIME_MAX - 5), 1 => 1i64 << 31..1 << 34],
                prop::collection::vec((prop_oneof![9 => 0u32..300, 1 => Just(u32::MAX)], -400i64..400), 1..6),
            ),
            1..20,
        ),
        clip in prop::option::of((0i64..6000, 0i64..6000)),
    ) {
        let inits = inits();
        let mut builder = Builder::new(clip.map_or(Bounds::Whole, |(from, to)| Bounds::Clip { from, to }));
        for (k, (track, start, list)) in (0..).zip(chunks) {
            let mut time = start;
            let list = list.into_iter().map(|(duration, offset)| {
                time += i64::from(duration);
                (time - i64::from(duration), time - i64::from(duration) + offset, duration)
            });
            let _ = builder.add(track, k, &inits[track], samples(list.collect::<Vec<_>>()));
        }
        if let Ok(file) = builder.finish() {
            let head = head(&file);
            let moov = moov(&head);
            let mut payload = 0;
            for (index, trak) in moov.trak.iter().enumerate() {
                let StszSamples::Different { sizes } = &trak.mdia.minf.stbl.stsz.samples else { panic!() };
                payload += sizes.iter().map(|size| u64::from(*size)).sum::<u64>();
                let told = told(&moov, index);
                prop_assert_eq!(told.len(), sizes.len());
                prop_assert!(told.windows(2).all(|two| two[0].0 < two[1].0));
                let last = trak.mdia.minf.stbl.stts.entries.last().unwrap().sample_delta;
                prop_assert_eq!(told[told.len() - 1].0 as u64 + u64::from(last), trak.mdia.mdhd.duration);
            }
            prop_assert_eq!(head.len() as u64 + payload, file.len());
        }
    }
}
