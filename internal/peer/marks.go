package peer

// Marks says how many bytes of a stream the peer has, by the bytes of the connection that it has
// acknowledged. The zero value is ready to use; its methods must not be called at once.
type Marks struct {
	list []mark // not known to be acknowledged, oldest first
	got  int64
}

// mark pairs a number of acknowledged bytes of the connection with the bytes of the stream that a
// peer then has.
type mark struct{ given, sent int64 }

// marksMost bounds the marks of a peer that is far behind.
const marksMost = 256

// Add notes that the stream's first sent bytes are among the first given bytes of the connection.
// sent must not fall from call to call.
func (m *Marks) Add(given, sent int64) {
	n := len(m.list)
	if sent <= m.got || (n > 0 && m.list[n-1].sent == sent) {
		return
	}
	for n > 0 && m.list[n-1].given >= given {
		n--
	}
	m.list = append(m.list[:n], mark{given, sent})
	if len(m.list) < marksMost {
		return
	}
	kept := m.list[:0]
	for i, one := range m.list { // every other one: the peer is remembered less exactly, and never too far
		if i%2 == 1 {
			kept = append(kept, one)
		}
	}
	m.list = kept
}

// Sent returns how many bytes of the stream a peer has that has acknowledged acked bytes of the
// connection.
func (m *Marks) Sent(acked int64) int64 {
	n := 0
	for n < len(m.list) && m.list[n].given <= acked {
		m.got = m.list[n].sent
		n++
	}
	if n == len(m.list) {
		m.list = nil // most streams are idle most of the time
	} else if n > 0 {
		m.list = append(m.list[:0], m.list[n:]...)
	}
	return m.got
}
