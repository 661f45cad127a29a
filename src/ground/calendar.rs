//! Days of the Gregorian calendar, from 1970 on.

/// Year, month (1 to 12) and day (1 to 31) of a day counted from 1970-01-01, in the Gregorian
/// calendar. Years are counted from March, so that the leap day is a year's last, in eras of 400
/// years.
pub fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days from 0000-03-01 to 1970-01-01
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to a date of 1970 or later; the inverse of [`civil`].
pub fn days_of(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let year_of_era = year % 400;
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    year / 400 * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_until_2554_agrees_with_a_calendar_library() {
        let mut date = jiff::civil::date(1970, 1, 1);
        for days in 0..=u64::MAX / 86_400_000_000_000 {
            let expected = (date.year() as u64, date.month() as u64, date.day() as u64);
            assert_eq!(civil(days), expected, "day {days}");
            assert_eq!(days_of(expected.0, expected.1, expected.2), days);
            date = date.tomorrow().unwrap();
        }
    }
}
