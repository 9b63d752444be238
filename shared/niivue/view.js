// The volume view: toolbar, three linked planes, surfaces in 3D, a line of status. Everything here stays in the browser.
//
// Other parts of a page talk to it through events on `window`:
//   volume:goto   { mm }                to it: move the crosshair there
//   volume:line   { points_mm, radii_mm } to it: mark a line in 3D; without points none
//   volume:pick   { mm, label }         from it: a labelled place was clicked
//   volume:moved  { mm }                from it: the crosshair moved
//   volume:window { low, high }         from it: the window was changed
import { slicesOf, tube } from './slices.js'

const PLANES = [
  { name: 'Axial', type: 0, axis: 2, sides: ['R', 'L', 'A', 'P'] },
  { name: 'Coronal', type: 1, axis: 1, sides: ['R', 'L', 'S', 'I'] },
  { name: 'Sagittal', type: 2, axis: 0, sides: ['A', 'P', 'S', 'I'] },
  { name: '3D', type: 4, axis: null },
]
const SIDES = ['left', 'right', 'top', 'bottom'] // of the picture, of which `sides` names the patient's
const QUARTERS = [[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0.5], [0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
const LINE_COLOUR = [255, 245, 157], LINE_MM = 1
const ROUND = 1.15 // a tree does not reach into the corners of its box
const BAR_PX = 26 // at the top of each plane, for its name and slider
const views = new WeakMap()
let spare = null // a view made ready before there was anything to show

export default async function mount({ data: { json }, parentElement }) {
  const data = JSON.parse(json)
  const host = parentElement.querySelector('.volume-view')
  let view = views.get(host)
  if (!view) {
    view = spare?.movedTo(host) ?? new VolumeView(host, data)
    spare = null
    views.set(host, view)
  }
  await view.started
  view.show(data)
  return () => setTimeout(() => { if (!host.isConnected) view.dispose() }, 1000)
}

/** Make a view ready, which the next mount takes: without a GPU, the shaders take a second or two to compile. */
export function prepare(assets) {
  if (spare) return
  const host = document.createElement('div')
  host.style.cssText = 'position: fixed; left: -9999px; width: 640px; height: 480px'
  document.body.append(host)
  const view = (spare = new VolumeView(host, { assets }))
  // Part of the start, which a mount awaits: two grids on their way at once would mix.
  view.started = view.started.then(() => view.nv.setGrid([2, 2, 2], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]))
  view.started.catch(() => { if (spare === view) spare = null }) // the next mount tries anew, and tells
}

class VolumeView {
  constructor(host, data) {
    this.host = host
    this.shown = {}
    this.surfaces = [] // { value, mesh }: a label's value, or 0 of a surface that no chip hides
    this.hidden = new Set() // label values switched off
    this.enlarged = null
    this.signal = new AbortController()
    this.started = this.start(data)
  }

  async start(data) {
    this.host.innerHTML = TEMPLATE
    this.part = (name) => this.host.querySelector(`[data-part="${name}"]`)
    await import(`${data.assets}/niivue.js`)
    const { niivue } = globalThis
    this.nv = new (slicesOf(niivue))({
      logLevel: 'error', loadingText: '', backColor: [0, 0, 0, 1], crosshairColor: [0.45, 0.85, 0.55, 0.8],
      crosshairWidth: 1, crosshairWidthUnit: 'percent', crosshairGap: 4, show3Dcrosshair: true, dragAndDropEnabled: false,
      isRadiologicalConvention: true, sagittalNoseLeft: true, isOrientationTextVisible: false,
      isDepthPickMesh: true, meshThicknessOn2D: 0, viewModeHotKey: '', clipPlaneHotKey: '', cycleClipPlaneHotKey: '',
    })
    const { crosshair, none, pan } = niivue.DRAG_MODE
    this.nv.setMouseEventConfig({ leftButton: { primary: crosshair, withShift: pan }, rightButton: none, centerButton: pan })
    this.nv.opts.crosshairWidth = 0.12
    await this.nv.attachToCanvas(this.part('canvas'), true)
    this.nv.onLocationChange = () => this.told()
    this.listen()
    this.sized = new ResizeObserver(() => this.layOut(this.enlarged))
    this.sized.observe(this.part('stage'))
  }

  movedTo(host) {
    host.replaceChildren(...this.host.childNodes)
    this.host.remove()
    this.host = host
    return this
  }

  dispose() {
    this.signal.abort()
    this.sized?.disconnect()
    this.nv.dispose()
    views.delete(this.host)
  }

  // --- what is shown ---

  async show(data) {
    const last = this.shown
    this.shown = data
    try {
      if (last.scan?.first.url !== data.scan.first.url) await this.showScan(data)
      if (last.labels?.url !== data.labels?.url) await this.showLabels(data)
    } catch (error) {
      this.nv.paused = false
      this.host.dataset.state = 'failed'
      this.say(`Cannot be shown: ${error.message}. Reload the page, or open the scan again`)
    }
  }

  async showScan(data) {
    const { scan } = data
    this.host.dataset.state = 'loading'
    this.say('Loading')
    const first = this.fetchHalf(scan.first)
    first.catch(() => {}) // awaited below, where a failure is told
    this.nv.paused = true
    this.nv.setLabels(null)
    this.clearSurfaces()
    this.markLine()
    await this.nv.setGrid(scan.dims, scan.affine)
    this.part('windows').replaceChildren(...data.windows.map((preset) =>
      button(preset.name, () => this.setWindow(preset.low, preset.high), { title: windowText(preset) })))
    this.setWindow(data.windows[0].low, data.windows[0].high)
    this.buildTiles()
    this.nv.setScan(scan.first.dims, await first)
    if (this.shown.scan !== scan && this.shown.scan.first.url !== scan.first.url) return
    this.reset()
    this.host.dataset.state = 'first'
    const fine = await this.fetchHalf(scan.fine, (share) => this.say(`Full resolution ${Math.round(100 * share)} %`))
    if (this.shown.scan.first.url !== scan.first.url) return // another scan was opened meanwhile
    this.nv.setScan(scan.fine.dims, fine)
    this.say(scan.note ?? '')
    this.nv.goTo(this.nv.crosshair)
    this.host.dataset.state = 'ready'
  }

  async showLabels({ labels, surfaces }) {
    this.clearSurfaces()
    this.host.dataset.labels = 'none'
    if (!labels) {
      this.nv.setLabels(null)
      this.buildChips([])
      this.nv.drawScene()
      return
    }
    const values = new Uint8Array(await (await fetched(labels.url)).arrayBuffer())
    this.nv.setLabels({ ...labels, values })
    this.nv.scene.volScaleMultiplier = this.closeness()
    this.buildChips(labels.entries)
    for (const surface of surfaces ?? []) {
      const buffer = await (await fetched(surface.url)).arrayBuffer()
      if (this.shown.labels?.url !== labels.url) return
      const mesh = await this.nv.addSurface(buffer, 'surface.mz3', surface.colour)
      this.surfaces.push({ value: surface.value, mesh })
    }
    this.repaint()
    this.host.dataset.labels = labels.url
  }

  clearSurfaces() {
    for (const { mesh } of this.surfaces) this.nv.removeMesh(mesh)
    this.surfaces = []
  }

  async markLine({ points_mm: points, radii_mm: radii } = {}) {
    const wanted = (this.linePoints = points)
    const buffer = points?.length > 1 ? tube(points, radii ?? points.map(() => LINE_MM)) : null
    const made = buffer && await this.nv.addSurface(buffer, 'line.mz3', LINE_COLOUR)
    const stale = wanted === this.linePoints ? this.line : made // another line was wanted meanwhile
    if (stale) this.nv.removeMesh(stale)
    if (wanted === this.linePoints) this.line = made
    this.nv.drawScene()
  }

  // Half floats, as they come in; `tell` hears the share that has arrived.
  async fetchHalf({ url, dims }, tell = () => {}) {
    const values = new Uint16Array(dims[0] * dims[1] * dims[2]), bytes = new Uint8Array(values.buffer)
    const reader = (await fetched(url)).body.getReader()
    let filled = 0
    for (let told = 0; ;) {
      const { done, value } = await reader.read()
      if (done) break
      bytes.set(value, filled)
      filled += value.length
      if (filled / bytes.length - told > 0.02) tell((told = filled / bytes.length))
    }
    if (filled !== bytes.length) throw new Error('the scan was cut short on its way')
    return values
  }

  // --- toolbar, tiles, status ---

  setWindow(low, high) {
    this.nv.range = [low, high]
    this.part('level').value = Math.round((low + high) / 2)
    this.part('width').value = Math.round(high - low)
    for (const [i, preset] of this.shown.windows.entries())
      this.part('windows').children[i].ariaPressed = String(preset.low === low && preset.high === high)
    this.nv.drawScene()
    clearTimeout(this.windowTold)
    this.windowTold = setTimeout(() => emit('volume:window', { low, high }), 250)
  }

  repaint() {
    const entries = this.shown.labels?.entries ?? []
    const opacity = Number(this.part('opacity').value)
    this.part('percent').textContent = `${opacity} %`
    this.nv.labelOpacity = opacity / 100
    this.nv.outlined = this.part('outline').ariaPressed === 'true'
    this.nv.setPalette(entries.map(({ value, colour }) => [value, colour, this.hidden.has(value) ? 0 : 1]))
    for (const { value, mesh } of this.surfaces) mesh.visible = !this.hidden.has(value)
    this.nv.drawScene()
  }

  buildChips(entries) {
    this.part('overlay').hidden = entries.length === 0
    this.part('labels').replaceChildren(...entries.map(({ value, name, colour }) => {
      const chip = button(name, () => {
        if (!this.hidden.delete(value)) this.hidden.add(value)
        chip.ariaPressed = String(!this.hidden.has(value))
        this.repaint()
      }, { title: `Show or hide ${name}` })
      chip.className = 'chip'
      chip.style.setProperty('--colour', `rgb(${colour})`)
      chip.ariaPressed = String(!this.hidden.has(value))
      return chip
    }))
    this.repaint()
  }

  buildTiles() {
    this.part('tiles').replaceChildren(...PLANES.map((plane, index) => {
      const tile = document.createElement('div')
      tile.className = 'tile'
      tile.dataset.plane = plane.name
      tile.innerHTML = `<span class="name"><b>${plane.name}</b> <i></i></span>` +
        (plane.sides ?? []).map((letter, side) => `<span class="side" data-side="${SIDES[side]}">${letter}</span>`).join('')
      const enlarge = button('', () => this.layOut(this.enlarged === index ? null : index), { title: 'Enlarge or restore' })
      enlarge.className = 'enlarge'
      enlarge.ariaLabel = `Enlarge ${plane.name}`
      tile.append(enlarge)
      if (plane.axis !== null) {
        const slider = document.createElement('input')
        Object.assign(slider, { type: 'range', min: 1, max: this.nv.dims[plane.axis], step: 1, ariaLabel: `${plane.name} slice` })
        slider.addEventListener('input', () => this.goToSlice(plane.axis, slider.valueAsNumber - 1))
        tile.append(slider)
      }
      return tile
    }))
    this.layOut(this.enlarged)
  }

  goToSlice(axis, index) {
    const frac = this.nv.crosshair
    frac[axis] = (index + 0.5) / this.nv.dims[axis]
    this.nv.goTo(frac)
  }

  layOut(enlarged = null) {
    this.enlarged = enlarged
    const boxes = QUARTERS.map((box, i) => (enlarged === null ? box : i === enlarged ? [0, 0, 1, 1] : null))
    const bar = BAR_PX / Math.max(this.part('stage').clientHeight, 4 * BAR_PX)
    const below = ([left, top, width, height]) => [left, top + bar, width, height - bar]
    this.nv.setCustomLayout(
      PLANES.flatMap(({ type }, i) => (boxes[i] ? [{ sliceType: type, position: below(boxes[i]) }] : [])))
    for (const [i, tile] of [...this.part('tiles').children].entries()) {
      tile.hidden = !boxes[i]
      if (boxes[i])
        ['left', 'top', 'width', 'height'].forEach((side, k) => { tile.style[side] = `${100 * boxes[i][k]}%` })
    }
  }

  say(text) {
    this.part('note').textContent = text
  }

  // The crosshair moved: tell where it is and what is there.
  told() {
    const { nv } = this
    if (!nv.dims || !this.shown.scan) return
    const frac = nv.crosshair, voxel = nv.voxel(), mm = this.mm()
    const label = this.shown.labels?.entries.find(({ value }) => value === nv.labelAt(frac))
    this.part('place').textContent = ['RL', 'AP', 'SI']
      .map((letters, i) => `${letters[mm[i] >= 0 ? 0 : 1]} ${Math.abs(mm[i]).toFixed(1)}`).join('   ') + ' mm'
    this.part('value').textContent = `${Math.round(nv.valueAt(frac))} ${this.shown.scan.unit}`
    this.part('label').textContent = label?.name ?? ''
    this.part('label').style.color = label ? `rgb(${label.colour})` : ''
    for (const [i, tile] of [...this.part('tiles').children].entries()) {
      const { axis } = PLANES[i]
      if (axis === null) continue
      tile.querySelector('i').textContent = `${voxel[axis] + 1} / ${nv.dims[axis]}`
      tile.querySelector('input').value = voxel[axis] + 1
    }
    emit('volume:moved', { mm })
  }

  mm() {
    return Array.from(this.nv.frac2mm(this.nv.scene.crosshairPos, 0, true)).slice(0, 3)
  }

  // --- mouse, keys, events ---

  listen() {
    const options = { signal: this.signal.signal }
    const canvas = this.part('canvas')
    this.part('opacity').addEventListener('input', () => this.repaint(), options)
    this.part('outline').addEventListener('click', (event) => {
      event.currentTarget.ariaPressed = String(event.currentTarget.ariaPressed !== 'true')
      this.repaint()
    }, options)
    this.part('reset').addEventListener('click', () => this.reset(), options)
    for (const name of ['level', 'width'])
      this.part(name).addEventListener('change', () => {
        const level = Number(this.part('level').value), width = Math.max(1, Number(this.part('width').value))
        this.setWindow(level - width / 2, level + width / 2)
      }, options)
    canvas.addEventListener('contextmenu', (event) => event.preventDefault(), options)
    canvas.addEventListener('dblclick', (event) => this.enlargeUnder(event), options)
    canvas.addEventListener('pointerdown', (event) => this.pressed(event), options)
    canvas.addEventListener('keydown', (event) => this.keyed(event), options)
    canvas.tabIndex = 0
    window.addEventListener('volume:goto', ({ detail }) => this.goToMm(detail.mm), options)
    window.addEventListener('volume:line', ({ detail }) => this.markLine(detail), options)
  }

  reset() {
    this.nv.paused = true
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, 1]
    this.nv.scene.volScaleMultiplier = this.closeness()
    this.nv.scene.renderAzimuth = 180 // seen from the front
    this.nv.scene.renderElevation = 10
    this.layOut(null)
    this.setWindow(this.shown.windows[0].low, this.shown.windows[0].high)
    this.nv.paused = false
    this.nv.goTo([0.5, 0.5, 0.5])
  }

  // How much larger than the whole scan 3D is drawn: what is marked fills the view, and stays in it however it is turned.
  closeness() {
    const { scan, labels } = this.shown
    if (!labels) return 1
    const extent = [0, 1, 2].map((k) => scan.dims[k] * Math.hypot(...[0, 1, 2].map((row) => scan.affine[row][k])))
    const far = extent.map((mm, k) => mm * Math.max(Math.abs(labels.low[k] - 0.5), Math.abs(labels.high[k] - 0.5)))
    return Math.min(Math.max((ROUND * Math.hypot(...extent)) / 2 / Math.hypot(...far), 1), 2)
  }

  goToMm(mm) {
    const frac = Array.from(this.nv.mm2frac(mm, 0, true))
    this.nv.goTo(frac)
  }

  planeUnder(event) {
    const box = this.part('canvas').getBoundingClientRect()
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height
    return this.enlarged ?? (x < 0.5 ? 0 : 1) + (y < 0.5 ? 0 : 2)
  }

  enlargeUnder(event) {
    this.layOut(this.enlarged === null ? this.planeUnder(event) : null)
  }

  // A press of the left button without a move is a click, which may choose a label; the right button drags the window.
  pressed(event) {
    const canvas = this.part('canvas'), [x, y] = [event.clientX, event.clientY], [low, high] = this.nv.range
    const plane = this.planeUnder(event)
    canvas.setPointerCapture(event.pointerId)
    const moved = (now) => {
      if (event.button !== 2) return
      const width = Math.max(1, high - low + 2 * (now.clientX - x)), level = (low + high) / 2 - 2 * (now.clientY - y)
      this.setWindow(Math.round(level - width / 2), Math.round(level + width / 2))
    }
    const released = (now) => {
      canvas.removeEventListener('pointermove', moved)
      if (event.button !== 0 || event.shiftKey || Math.hypot(now.clientX - x, now.clientY - y) > 3) return
      setTimeout(() => this.clicked(PLANES[plane].axis === null)) // after niivue's own mouse handlers
    }
    canvas.addEventListener('pointermove', moved)
    canvas.addEventListener('pointerup', released, { once: true })
  }

  clicked(in3D) {
    if (in3D && !this.nv.pickSurface()) return
    emit('volume:pick', { mm: this.mm(), label: this.nv.labelAt(this.nv.crosshair), surface: in3D })
  }

  keyed(event) {
    const steps = { ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], PageUp: [0, 0, 10], PageDown: [0, 0, -10] }
    if (!steps[event.key]) return
    event.preventDefault()
    this.nv.moveCrosshairInVox(...steps[event.key])
  }
}

const GESTURES = [
  ['Click, drag', 'crosshair'], ['Click an artery', 'choose its branch'], ['Wheel, arrow keys', 'slice'],
  ['Ctrl + wheel', 'zoom'], ['Shift + drag', 'pan'], ['Right drag', 'window: width, level'], ['Double click', 'enlarge'],
]
const HELP = GESTURES.map(([gesture, does]) => `<dt>${gesture}</dt><dd>${does}</dd>`).join('')
const HINT = 'Wheel: slice   Ctrl + wheel: zoom   Right drag: window'

const TEMPLATE = `
<div class="bar">
  <span class="group" data-part="windows"></span>
  <span class="group"><label>W <input data-part="width" type="number" step="10" aria-label="Window width"></label>
  <label>L <input data-part="level" type="number" step="10" aria-label="Window level"></label></span>
  <span class="group overlay" data-part="overlay" hidden>
    <span data-part="labels"></span>
    <label class="wide">Opacity <input data-part="opacity" type="range" min="0" max="100" value="60" aria-label="Opacity">
    <output data-part="percent">60 %</output></label>
    <button type="button" data-part="outline" aria-pressed="false" title="Draw outlines only">Outline</button>
  </span>
  <span class="group end"><button type="button" data-part="reset" title="Window, zoom and layout as at first">Reset</button>
  <details class="help"><summary title="Mouse and keys" aria-label="Mouse and keys">?</summary><dl>${HELP}</dl></details></span>
</div>
<div class="stage" data-part="stage"><canvas data-part="canvas" aria-label="Scan"></canvas><div class="tiles" data-part="tiles"></div></div>
<div class="status">
  <span data-part="place"></span><span data-part="value"></span><span data-part="label"></span>
  <span class="hint">${HINT}</span>
  <span data-part="note"></span>
</div>`

function button(text, act, attributes = {}) {
  const made = document.createElement('button')
  made.type = 'button'
  made.textContent = text
  Object.assign(made, attributes)
  made.addEventListener('click', act)
  return made
}

const windowText = ({ low, high }) => `W ${high - low}  L ${(low + high) / 2}`

const emit = (name, detail) => window.dispatchEvent(new CustomEvent(name, { detail }))

async function fetched(url) {
  const answer = await fetch(url, { cache: 'no-store', credentials: 'same-origin' })
  if (!answer.ok) throw new Error(answer.status === 404 ? 'it is no longer on the server' : `the server answers ${answer.status}`)
  return answer
}
