package hub

import (
	"strings"

	"github.com/fanfare-hub/fanfare"
)

// trie finds the patterns that match a channel, segment by segment.
type trie struct {
	root node
	size int
}

type node struct {
	children map[string]*node // by literal segment
	star     *node            // by '*'
	here     *filter          // the pattern that ends here
	rest     *filter          // the pattern that ends here with '**'
}

// find returns the filter of a pattern, or nil.
func (t *trie) find(p fanfare.Pattern) *filter {
	n := &t.root
	for rest, more := p.String(), true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		switch segment {
		case "**":
			return n.rest
		case "*":
			n = n.star
		default:
			n = n.children[segment]
		}
		if n == nil {
			return nil
		}
	}
	return n.here
}

// insert adds a filter whose pattern is not in the trie.
func (t *trie) insert(f *filter) {
	t.size++
	n := &t.root
	for rest, more := f.pattern.String(), true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		switch segment {
		case "**":
			n.rest = f
			return
		case "*":
			if n.star == nil {
				n.star = &node{}
			}
			n = n.star
		default:
			child := n.children[segment]
			if child == nil {
				child = &node{}
				if n.children == nil {
					n.children = map[string]*node{}
				}
				n.children[segment] = child
			}
			n = child
		}
	}
	n.here = f
}

// remove takes a filter out, and the nodes that no other pattern needs.
func (t *trie) remove(f *filter) {
	t.size--
	t.root.remove(f.pattern.String())
}

func (n *node) remove(text string) {
	segment, rest, more := strings.Cut(text, "/")
	if segment == "**" {
		n.rest = nil
		return
	}
	child := n.children[segment]
	if segment == "*" {
		child = n.star
	}
	if more {
		child.remove(rest)
	} else {
		child.here = nil
	}
	if child.here != nil || child.rest != nil || child.star != nil || len(child.children) > 0 {
		return
	}
	if segment == "*" {
		n.star = nil
	} else {
		delete(n.children, segment)
	}
}

// match appends a hit for each pattern that matches c. A leading wildcard does not match a reserved
// channel.
func (t *trie) match(hits []hit, c fanfare.Channel, event int) []hit {
	if c.Reserved() {
		segment, rest, more := strings.Cut(c.String(), "/")
		return t.root.children[segment].match(hits, rest, more, event)
	}
	return t.root.match(hits, c.String(), true, event)
}

func (n *node) match(hits []hit, rest string, more bool, event int) []hit {
	if n == nil {
		return hits
	}
	if !more {
		if n.here != nil {
			hits = append(hits, hit{n.here, event})
		}
		return hits
	}
	if n.rest != nil {
		hits = append(hits, hit{n.rest, event})
	}
	segment, rest, more := strings.Cut(rest, "/")
	hits = n.children[segment].match(hits, rest, more, event)
	return n.star.match(hits, rest, more, event)
}

// each calls f for each filter.
func (t *trie) each(f func(*filter)) { t.root.each(f) }

func (n *node) each(f func(*filter)) {
	if n == nil {
		return
	}
	for _, own := range []*filter{n.here, n.rest} {
		if own != nil {
			f(own)
		}
	}
	n.star.each(f)
	for _, child := range n.children {
		child.each(f)
	}
}
