//! The journal keeps what it was given: its format, its recovery, and the running log against a reference model, on a disk in
//! memory that is killed, loses power, fails and is damaged.

mod journal {
    mod aside;
    mod bits;
    mod blocks;
    mod codec;
    mod damage;
    mod disk;
    mod formats;
    mod full;
    mod keys;
    mod model;
    mod recovery;
    mod rewrite;
    mod speed;
    mod world;
}
