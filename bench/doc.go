// Package bench measures what the project claims, as ratios within one run, because machines are
// shared and noisy: the two sides of a ratio take turns, and the median of the pairs counts. Run it
// with `make bench`; it is never a test.
package bench
