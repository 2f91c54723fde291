"""Motion: 14 joints in pixels; cleaning, resampling, normalisation, bones and the amplitude of Eq. 1-2."""
