//! Damage: files cut short, bytes flipped, lives mixed up.
