package pebblelog

// readers read the events that the catalog shows. Their methods may be called from any goroutine
// while the session is held open (acquire). There are many methods, because there are two ways to
// answer each question of fanfare.Log: by the indexes of a few channels, and by a scan.
type readers struct {
	*catalog
	pieces pieces // fixed
}
