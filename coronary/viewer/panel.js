// The side panel: arteries, branches, and the chosen branch laid out straight beside its diameter.
// It talks to the volume view by the events that shared/niivue/view.js lists.
const NS = 'http://www.w3.org/2000/svg'
const PICK_MM = 3 // a click this far outside a vessel still means it
const MARK_MM = 0.35 // by which the mark in 3D is thicker than the vessel
const panels = new WeakMap()

export default async function mount({ data: { json }, parentElement }) {
  const host = parentElement.querySelector('.panel')
  let panel = panels.get(host)
  if (!panel) panels.set(host, (panel = new Panel(host)))
  await panel.show(JSON.parse(json))
  return () => setTimeout(() => { if (!host.isConnected) panel.signal.abort() }, 1000)
}

class Panel {
  constructor(host) {
    this.host = host
    this.signal = new AbortController()
    this.window = { low: -100, high: 700 }
    this.angle = 0
    const on = (name, act) => window.addEventListener(name, ({ detail }) => act(detail), { signal: this.signal.signal })
    on('volume:pick', (picked) => this.picked(picked))
    on('volume:moved', ({ mm }) => this.follow(mm))
    on('volume:window', (range) => { this.window = range; this.drawStraight() })
  }

  async show(data) {
    this.host.style.setProperty('--less', `${data.less_px}px`)
    const shown = `${data.url}/${data.result}`
    if (this.shown === shown) return
    this.shown = shown
    this.data = data
    const answer = await fetch(`${data.url}/${data.result}/tree.json`, { cache: 'no-store' })
    this.tree = await answer.json()
    this.branch = null
    this.build()
    const first = this.tree.branches.reduce((a, b) => (!a || worst(b) > worst(a) ? b : a), null)
    if (first) this.choose(first, { move: false })
  }

  build() {
    const { branches } = this.tree
    this.host.innerHTML = TEMPLATE
    this.part = (name) => this.host.querySelector(`[data-part="${name}"]`)
    this.part('arteries').replaceChildren(...this.data.arteries.map((artery) => {
      const own = branches.filter(({ side }) => side === artery.side)
      const sum = own.reduce((length, branch) => length + branch.length_mm, 0)
      return html(`<div class="artery" style="--colour: rgb(${artery.colour})"><b>${artery.name}</b>
        <span>${(this.tree.volume_mm3[artery.side] / 1000).toFixed(2)} ml</span><span>${sum.toFixed(0)} mm</span>
        <span>${own.length} ${own.length === 1 ? 'branch' : 'branches'}</span></div>`)
    }))
    this.part('rows').replaceChildren(...branches.map((branch) => {
      const row = document.createElement('tr')
      row.tabIndex = 0
      row.dataset.branch = branch.id
      row.style.setProperty('--colour', `rgb(${this.colour(branch)})`)
      row.innerHTML = `<td><i></i>${this.nameOf(branch)}</td><td>${branch.length_mm.toFixed(0)}</td>
        <td>${branch.mean_diameter_mm.toFixed(1)}</td><td>${branch.min_diameter_mm.toFixed(1)}</td>
        <td>${worst(branch) ? `<em>${worst(branch).toFixed(0)} %</em>` : ''}</td>`
      row.addEventListener('click', () => this.choose(branch))
      row.addEventListener('keydown', (event) => {
        if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); this.choose(branch) }
      })
      return row
    }))
    const stage = this.part('stage')
    this.sized?.disconnect()
    this.sized = new ResizeObserver(() => this.drawBranch())
    this.sized.observe(stage)
    stage.addEventListener('pointermove', (event) => this.hover(event))
    stage.addEventListener('pointerleave', () => this.mark(this.at))
    stage.addEventListener('pointerdown', (event) => { stage.setPointerCapture(event.pointerId); this.hover(event, true) })
    stage.addEventListener('wheel', (event) => {
      event.preventDefault()
      this.turn((this.angle + (event.deltaY > 0 ? 10 : 350)) % 360)
    }, { passive: false })
    this.part('angle').addEventListener('input', (event) => this.turn(event.target.valueAsNumber))
  }

  nameOf(branch) {
    const own = this.tree.branches.filter(({ side }) => side === branch.side)
    return `${branch.side === 'unknown' ? '?' : branch.side} ${own.indexOf(branch) + 1}`
  }

  colour(branch) {
    return this.data.arteries.find(({ side }) => side === branch.side)?.colour ?? [200, 200, 200]
  }

  // Choosing a branch moves the crosshair to its worst narrowing, or to its middle.
  choose(branch, { move = true, index = null } = {}) {
    this.branch = branch
    this.along = arcLength(branch.points_mm)
    const gravest = branch.narrowings.reduce((a, b) => (!a || b.percent > a.percent ? b : a), null)
    this.at = index ?? nearest(branch.points_mm, gravest?.point_mm ?? branch.points_mm[branch.points_mm.length >> 1]).index
    for (const row of this.part('rows').children) row.ariaSelected = String(Number(row.dataset.branch) === branch.id)
    this.part('rows').querySelector('[aria-selected="true"]')?.scrollIntoView({ block: 'nearest' })
    const some = (values) => values.filter((_, i) => i % 4 === 0 || i === values.length - 1)
    emit('volume:line', { points_mm: some(branch.points_mm), radii_mm: some(branch.diameter_mm).map((d) => d / 2 + MARK_MM) })
    if (move) emit('volume:goto', { mm: branch.points_mm[this.at] })
    this.drawBranch()
    this.drawStraight()
  }

  picked({ mm, label, surface }) {
    if (!this.tree || (!label && !surface)) return
    let best = null
    for (const branch of this.tree.branches) {
      const found = nearest(branch.points_mm, mm)
      const outside = found.distance - branch.diameter_mm[found.index] / 2
      if (!best || outside < best.outside) best = { branch, outside, index: found.index }
    }
    if (best && best.outside < PICK_MM) this.choose(best.branch, { move: false, index: best.index })
  }

  follow(mm) {
    if (!this.branch) return
    const found = nearest(this.branch.points_mm, mm)
    if (found.distance > PICK_MM) return
    this.at = found.index
    this.mark(this.at)
  }

  turn(angle) {
    this.angle = angle
    this.part('angle').value = angle
    this.part('degrees').textContent = `${angle}°`
    this.drawStraight()
  }

  // One picture on its way at a time; what was asked for last wins.
  async drawStraight() {
    if (!this.branch || !this.part) return
    const { low, high } = this.window
    this.wanted = `${this.data.url}/straight/${this.data.result}/${this.branch.id}.png?angle=${this.angle}&low=${low}&high=${high}`
    if (this.loading) return
    this.loading = true
    while (this.drawn !== this.wanted) {
      const url = this.wanted
      const picture = new Image()
      picture.src = url
      try { await picture.decode() } catch { /* a branch too short to lay out: the frame stays empty */ }
      this.drawn = url
      this.part('straight').src = picture.src
      this.part('straight').dataset.branch = this.branch.id
    }
    this.loading = false
  }

  // The diameter, downwards along the branch, at the scale of the picture beside it.
  drawBranch() {
    if (!this.branch || !this.part) return
    const { branch, along } = this, total = along.at(-1)
    const tall = this.part('stage').clientHeight
    this.part('straight').style.width = `${clamp((tall / total) * this.data.width_mm, 72, 0.4 * this.host.clientWidth)}px`
    const box = this.part('plot').getBoundingClientRect()
    if (!box.width || !box.height) return
    const widest = Math.max(4, Math.ceil(Math.max(...branch.diameter_mm, ...branch.narrowings.map((n) => n.reference_diameter_mm))))
    const x = (mm) => 8 + (mm / widest) * (box.width - 40), y = (mm) => (mm / total) * box.height
    const svg = this.part('plot')
    svg.setAttribute('viewBox', `0 0 ${box.width} ${box.height}`)
    svg.replaceChildren()
    for (let mm = 0; mm <= widest; mm++) {
      line(svg, x(mm), 0, x(mm), box.height, mm ? 'grid' : 'axis')
      if (mm) text(svg, x(mm), box.height - 4, mm === widest ? `${mm} mm` : mm, 'scale middle')
    }
    for (let mm = 0; mm <= total; mm += total > 60 ? 20 : 10) {
      line(svg, x(0), y(mm), x(widest), y(mm), 'grid')
      if (y(mm) < box.height - 16) text(svg, box.width - 2, Math.max(y(mm), 9), mm ? mm : '0 mm', 'scale end')
    }
    for (const narrowing of branch.narrowings) {
      const top = y(narrowing.position_mm - narrowing.length_mm / 2), bottom = y(narrowing.position_mm + narrowing.length_mm / 2)
      shape(svg, 'rect', { x: x(0), y: top, width: x(widest) - x(0), height: Math.max(bottom - top, 2), class: 'narrowing' })
    }
    const edge = branch.diameter_mm.map((d, i) => `${x(d).toFixed(1)} ${y(along[i]).toFixed(1)}`)
    shape(svg, 'path', { d: `M ${x(0)} 0 L ${edge.join(' L ')} L ${x(0)} ${box.height} Z`, class: 'fill' })
    shape(svg, 'path', { d: `M ${edge.join(' L ')}`, class: 'curve' })
    for (const narrowing of branch.narrowings) {
      const at = y(narrowing.position_mm)
      line(svg, x(narrowing.diameter_mm), at, x(narrowing.reference_diameter_mm), at, 'loss')
      text(svg, x(narrowing.reference_diameter_mm) + 4, at - 6, `${narrowing.percent.toFixed(0)} %`, 'percent')
    }
    this.cursor = line(svg, 0, 0, box.width, 0, 'cursor')
    svg.style.setProperty('--colour', `rgb(${this.colour(branch)})`)
    this.part('name').textContent = this.nameOf(branch)
    this.part('facts').textContent = `${branch.length_mm.toFixed(0)} mm · Ø ${branch.min_diameter_mm.toFixed(1)} to ${Math.max(...branch.diameter_mm).toFixed(1)} mm`
    this.mark(this.at)
  }

  mark(index) {
    if (!this.cursor || index == null) return
    const box = this.part('plot').getBoundingClientRect()
    const at = (this.along[index] / this.along.at(-1)) * box.height
    this.cursor.setAttribute('y1', at)
    this.cursor.setAttribute('y2', at)
    this.part('needle').style.top = `${at}px`
    this.part('here').textContent = `${this.along[index].toFixed(1)} mm   Ø ${this.branch.diameter_mm[index].toFixed(2)} mm`
  }

  hover(event, pressed = event.buttons === 1) {
    const box = this.part('plot').getBoundingClientRect()
    const mm = ((event.clientY - box.top) / box.height) * this.along.at(-1)
    let index = this.along.findIndex((far) => far >= mm)
    if (index < 0) index = this.along.length - 1
    this.mark(index)
    if (!pressed) return
    this.at = index
    emit('volume:goto', { mm: this.branch.points_mm[index] })
  }
}

const TEMPLATE = `
<div class="arteries" data-part="arteries"></div>
<div class="branches"><table><thead><tr><th>Branch</th><th>mm</th><th>Ø mean</th><th>least</th><th>narrow</th></tr></thead>
<tbody data-part="rows"></tbody></table></div>
<div class="chosen">
  <div class="head"><b data-part="name"></b><span data-part="facts"></span></div>
  <div class="body" data-part="stage">
    <div class="film"><img data-part="straight" alt="The branch laid out straight"><span class="needle" data-part="needle"></span></div>
    <svg data-part="plot" role="img" aria-label="Diameter along the branch"></svg>
  </div>
  <div class="foot"><label>Turn <input type="range" min="0" max="350" step="10" value="0" data-part="angle" aria-label="Turn about the vessel">
  <output data-part="degrees">0°</output></label><span data-part="here"></span></div>
</div>`

const clamp = (v, low, high) => Math.min(Math.max(v, low), high)

const worst = (branch) => Math.max(0, ...branch.narrowings.map(({ percent }) => percent))

const emit = (name, detail) => window.dispatchEvent(new CustomEvent(name, { detail }))

function html(markup) {
  const template = document.createElement('template')
  template.innerHTML = markup.trim()
  return template.content.firstChild
}

function shape(svg, kind, attributes) {
  const made = document.createElementNS(NS, kind)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  svg.append(made)
  return made
}

const line = (svg, x1, y1, x2, y2, kind) => shape(svg, 'line', { x1, y1, x2, y2, class: kind })

function text(svg, x, y, words, kind) {
  shape(svg, 'text', { x, y, class: kind }).textContent = words
}

function arcLength(points) {
  let far = 0
  return points.map((p, i) => (far += i ? Math.hypot(...p.map((v, k) => v - points[i - 1][k])) : 0))
}

function nearest(points, to) {
  let best = { index: 0, distance: Infinity }
  points.forEach((p, index) => {
    const distance = Math.hypot(p[0] - to[0], p[1] - to[1], p[2] - to[2])
    if (distance < best.distance) best = { index, distance }
  })
  return best
}
